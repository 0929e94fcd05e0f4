import shutil
from pathlib import Path

import pytest

from everloop.errors import ArtifactError, DataError
from everloop.manifest import sha256_file
from training.tokens import TokenizerFolder


def test_read_finds_special_tokens_and_hash(tiny_tokenizer: Path) -> None:
    folder = TokenizerFolder.read(tiny_tokenizer)
    assert (folder.special.bos, folder.special.pad, folder.special.eos) == (0, 0, (0, 2))
    assert folder.sha256 == sha256_file(tiny_tokenizer / "tokenizer.json")


def test_copy_to_copies_bytes(tiny_tokenizer: Path, tmp_path: Path) -> None:
    TokenizerFolder.read(tiny_tokenizer).copy_to(tmp_path)
    assert TokenizerFolder.read(tmp_path).sha256 == TokenizerFolder.read(tiny_tokenizer).sha256


def test_read_names_the_missing_file(tiny_tokenizer: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_tokenizer, tmp_path / "copy")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ArtifactError, match=r"chat_template\.jinja is missing"):
        TokenizerFolder.read(folder)


def test_read_names_the_missing_token(tiny_tokenizer: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_tokenizer, tmp_path / "copy")
    file = folder / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("<|im_end|>", "<|end|>"), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"the token <\|im_end\|> is missing"):
        TokenizerFolder.read(folder)


def test_read_refuses_a_damaged_tokenizer(tiny_tokenizer: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_tokenizer, tmp_path / "copy")
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="is no tokenizer"):
        TokenizerFolder.read(folder)
