import json
from pathlib import Path

import pytest

from everloop.errors import ArtifactError
from everloop.manifest import SpecialTokens
from tests.tiny_model import make_tiny_tokenizer
from training.export.special_tokens import read_special_tokens


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_tiny_tokenizer(tmp_path)
    return tmp_path


def write(folder: Path, name: str, **values: object) -> None:
    (folder / name).write_text(json.dumps(values), encoding="utf-8")


def test_read_special_tokens_collects_every_end(folder: Path) -> None:
    write(folder, "config.json", eos_token_id=7, bos_token_id=5)
    write(folder, "generation_config.json", eos_token_id=[9, 7], pad_token_id=4)

    assert read_special_tokens(folder) == SpecialTokens(
        bos_token_id=5, eos_token_ids=(0, 2, 7, 9), pad_token_id=4
    )


def test_read_special_tokens_needs_the_tokenizer_only(folder: Path) -> None:
    assert read_special_tokens(folder) == SpecialTokens(
        bos_token_id=None, eos_token_ids=(0, 2), pad_token_id=0
    )


def test_read_special_tokens_refuses_a_model_that_never_ends(folder: Path) -> None:
    path = folder / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    for name in ("endoftext", "im_end"):
        text = text.replace(f"<|{name}|>", f"<|other_{name}|>")
    path.write_text(text, encoding="utf-8")
    write(folder, "tokenizer_config.json")

    with pytest.raises(ArtifactError, match="no end token is named"):
        read_special_tokens(folder)
