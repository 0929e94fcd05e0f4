"""What an import needed stays with the version and reaches those that are trained from it."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from everloop.importing import import_checkpoint
from everloop.inheritance import inherit, origin_tag
from everloop.lifecycle import build_data, export_version, find_checkpoint, validation_windows
from everloop.manifest import DatasetRef
from everloop.registry import ModelVersion
from everloop.sampling_defaults import SamplingDefaults
from everloop.settings import Home, RunFile
from tests.tiny_model import make_tiny_checkpoint
from training.checkpoint import Checkpoint, write_sidecar

TEXT = "".join(f"The value of row {number} is {number * number}.\n" for number in range(400))
GIVEN = (
    "export.precision=fp32",
    "export.cache=fp32",
    "export.max_query_len=32",
    "export.max_model_len=48",
    "export.max_parity_ratio=9.0",
)
CARD = "---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n"


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, ModelVersion]:
    folder = tmp_path_factory.mktemp("imported")
    checkpoint = make_tiny_checkpoint(folder / "Tiny", family="llama", max_model_len=64)
    (checkpoint / "README.md").write_text(CARD, encoding="utf-8")
    path = checkpoint / "generation_config.json"
    sampling = {"do_sample": True, "temperature": 0.6, "top_k": 20}
    settings = json.loads(path.read_text(encoding="utf-8")) | sampling
    path.write_text(json.dumps(settings), encoding="utf-8")
    text = folder / "text.md"
    text.write_text(TEXT, encoding="utf-8")
    home = Home(folder / "home").create()
    run = RunFile.load(None, GIVEN)
    return home, import_checkpoint(home, run, checkpoint, text=str(text))


def tuned(home: Home, folder: Path, parent: str | None) -> Checkpoint:
    """Other weights, as tuning leaves them."""
    make_tiny_checkpoint(folder, family="llama", max_model_len=64, seed=3)
    dataset = DatasetRef(id="ds-0", merkle_root="0", rows=1, use="dpo")
    return write_sidecar(folder, datasets=[dataset], config={}, seed=0, parent=parent, metrics={})


def test_an_import_keeps_what_it_was_given(imported: tuple[Home, ModelVersion]) -> None:
    manifest = imported[1].manifest
    assert manifest.settings == {
        "name": "tiny",
        "licence": "apache-2.0",
        "precision": "fp32",
        "cache": "fp32",
        "max_query_len": 32,
        "max_model_len": 48,
        "max_parity_ratio": 9.0,
    }
    assert manifest.licence == "apache-2.0"
    assert manifest.sampling == SamplingDefaults(
        temperature=0.6, top_k=20, source="generation_config.json"
    )


def test_a_version_trained_from_an_import_inherits_it(
    imported: tuple[Home, ModelVersion], tmp_path: Path
) -> None:
    home, parent = imported
    checkpoint = tuned(home, tmp_path / "tuned", parent.tag)

    child = export_version(home, RunFile.load(None, ("export.max_query_len=16",)), checkpoint)

    before, after = parent.manifest, child.manifest
    assert after.settings == before.settings | {"max_query_len": 16}
    assert (after.name, after.licence, after.sampling) == ("tiny", "apache-2.0", before.sampling)
    assert (after.max_model_len, after.max_query_len) == (48, 16)
    assert after.lineage.parent == parent.tag
    template = "chat_template.jinja"
    assert (child.path / template).read_text() == (parent.path / template).read_text()
    # A grandchild, by a run that says nothing at all.
    config = inherit(home, RunFile("test", {}), tuned(home, tmp_path / "x", child.tag))
    assert (config.max_query_len, config.max_model_len, config.name) == (16, 48, "tiny")
    assert config.sampling == before.sampling


def test_an_import_is_exported_again_as_it_was_imported(
    imported: tuple[Home, ModelVersion],
) -> None:
    home, version = imported
    checkpoint = find_checkpoint(home, "tiny")
    config = inherit(home, RunFile.load(None, ("export.precision=int8",)), checkpoint)
    assert (config.name, config.max_model_len, config.precision) == ("tiny", 48, "int8")
    assert config.sampling == version.manifest.sampling
    assert origin_tag(home, checkpoint) == version.tag


def test_weights_without_a_parent_inherit_nothing(home: Home, tmp_path: Path) -> None:
    config = inherit(home, RunFile("test", {}), tuned(home, tmp_path / "a", None))
    assert (config.name, config.max_model_len, config.sampling) == ("everloop", None, None)


def test_a_run_tuned_on_pairs_alone_can_be_exported(
    imported: tuple[Home, ModelVersion], tmp_path: Path
) -> None:
    source = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"Who lives in house {n}?", "chosen": f"Fox {n}.", "rejected": f"Not {n}."}
        for n in range(60)
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    home = Home(tmp_path / "home").create()
    build_data(home, RunFile.load(None, (f'data.sources=["{source}"]',)))
    checkpoint = tuned(home, tmp_path / "tuned", None)

    windows, bytes_per_token = validation_windows(home, checkpoint, 40, max_context=48)

    assert windows.shape == (40, 49)
    assert bytes_per_token == pytest.approx(1.0, abs=0.1)
    tokenizer = Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))
    assert "Who lives in house" in tokenizer.decode(windows[0].tolist())
    version = export_version(home, RunFile.load(None, GIVEN), checkpoint)
    assert version.manifest.sampling.temperature == 0.7
