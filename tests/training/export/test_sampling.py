import json
from pathlib import Path

import pytest

from everloop.errors import ArtifactError
from everloop.manifest import DatasetRef, Lineage
from everloop.sampling_defaults import IMPORTED, TRAINED, SamplingDefaults
from training.export.licence import read_licence
from training.export.sampling import read_sampling

PRETRAINED = DatasetRef(id="ds-0", merkle_root="0", rows=1, use="pretrain")


def lineage(*datasets: DatasetRef) -> Lineage:
    return Lineage(
        checkpoint_sha256="0", datasets=datasets, parent=None, config={}, seed=0, packages={}
    )


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, {"temperature": 0.6, "top_p": 0.9}),
        # Gemma 3 names no temperature, Qwen 2.5 a penalty.
        ({"do_sample": True, "top_k": 64, "top_p": 0.95}, {"top_k": 64, "top_p": 0.95}),
        (
            {"temperature": 1, "repetition_penalty": 1.1, "top_k": 0, "min_p": None},
            {"temperature": 1.0, "repetition_penalty": 1.1},
        ),
        ({"do_sample": False, "temperature": 0.6}, {"temperature": 0.0}),
    ],
)
def test_sampling_is_what_the_weights_bring(
    tmp_path: Path, content: dict[str, object], wanted: dict[str, float]
) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(content), encoding="utf-8")
    expected = SamplingDefaults.model_validate(wanted | {"source": "generation_config.json"})
    assert read_sampling(tmp_path, lineage()) == expected


def test_weights_that_bring_none_are_told_apart(tmp_path: Path) -> None:
    assert read_sampling(tmp_path, lineage()) == IMPORTED
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 2}', encoding="utf-8")
    assert read_sampling(tmp_path, lineage()) == IMPORTED
    assert read_sampling(tmp_path, lineage(PRETRAINED)) == TRAINED


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"temperature": 9}', r"temperature: .* got 9\. Correct it or remove it\."),
        ('{"top_k": "many"}', r"top_k: .* got 'many'"),
        ("{", r"generation_config\.json is no JSON"),
        ("[1]", r"must hold a JSON object"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "generation_config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ArtifactError, match=message):
        read_sampling(tmp_path, lineage())


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\ntags:\n- a\n---\n# Model\n", "apache-2.0"),
        ('---\nlicense: other\nlicense_name: "qwen-research"\n---\n', "qwen-research"),
        ("# Model\nlicense: mit\n", None),
        ("---\ntags: []\n---\nlicense: mit\n", None),
    ],
)
def test_licence_is_that_of_the_model_card(tmp_path: Path, card: str, licence: str | None) -> None:
    assert read_licence(tmp_path) is None
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    assert read_licence(tmp_path) == licence
