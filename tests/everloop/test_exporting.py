import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from everloop.cli import app
from everloop.errors import ArtifactError, ConfigError, EverloopError, NotFoundError
from everloop.exporting import export_model
from everloop.importing import import_checkpoint
from everloop.lifecycle import checkpoint_of, find_checkpoint
from everloop.records import DatasetRow, Source
from everloop.registry import ModelVersion
from everloop.settings import Home, RunFile
from tests.tiny_model import make_tiny_checkpoint
from training.tokenizer import TokenizerConfig, train_tokenizer

RUN = RunFile("test", {"export": {"precision": "int8", "cache": "fp32", "max_query_len": 32,
                                  "max_int8_loss_increase": 1.0}})  # fmt: skip
TEXT = "".join(f"The value of row {number} is {number * number}.\n" for number in range(400))


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "text.md").write_text(TEXT, encoding="utf-8")
    return str(tmp_path / "text.md")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = make_tiny_checkpoint(
        tmp_path / "tiny", family="llama", max_model_len=64, vocab_size=512
    )
    source = (Source(kind="document", id="a"),)
    row = DatasetRow(id="a", split="train", sources=source, text=TEXT[:2000])
    train_tokenizer([row], TokenizerConfig(vocab_size=512), folder)
    return folder


@pytest.fixture
def version(home: Home, checkpoint: Path, text: str) -> ModelVersion:
    """Of int8 weights, which are never what is exported."""
    return import_checkpoint(home, RUN, checkpoint, text=text)


def same_weights(left: Path, right: Path) -> bool:
    one, other = (load_file(folder / "model.safetensors") for folder in (left, right))
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_exported_gguf_imported_again_is_the_same_checkpoint(
    home: Home, checkpoint: Path, version: ModelVersion, text: str, tmp_path: Path
) -> None:
    target = tmp_path / "out.gguf"
    options = ["--home", str(home.root), "--json"]

    result = CliRunner().invoke(app, ["models", "export", version.tag, str(target), *options])
    again = import_checkpoint(home, RUN, target, text=text)

    assert json.loads(result.stdout) == {
        "written": str(target), "format": "gguf", "dtype": "f32", "bytes": target.stat().st_size
    }  # fmt: skip
    kept = checkpoint_of(home, again)
    assert same_weights(kept.path, checkpoint)
    assert again.manifest.name == "out"
    assert kept.path.parent.name == "out"
    assert not kept.path.is_symlink()
    assert again.manifest.lineage.config["import.file"] == "out.gguf"
    assert find_checkpoint(home, kept.path.parent.name).sha256 == kept.sha256
    assert list(home.root.glob("import-*")) == []
    assert list(tmp_path.glob(".partial-*")) == []


def test_exported_folder_holds_the_checkpoint(
    home: Home, checkpoint: Path, version: ModelVersion, tmp_path: Path
) -> None:
    export_model(home, version.tag, tmp_path / "out", form="hf", dtype="f32")

    assert same_weights(tmp_path / "out", checkpoint)
    assert not (tmp_path / "out" / "everloop.json").exists()


@pytest.mark.parametrize(
    ("target", "form", "dtype", "error", "message"),
    [
        ("text.md", "gguf", "f32", ArtifactError, "text.md already exists"),
        ("none/a.gguf", "gguf", "f32", ArtifactError, "none is no folder"),
        ("out", "hf", "q8_0", ConfigError, "a Hugging Face folder takes f32 and f16"),
    ],
)
def test_export_is_refused_before_anything_is_written(
    home: Home, version: ModelVersion, tmp_path: Path,
    target: str, form: str, dtype: str, error: type[EverloopError], message: str,
) -> None:  # fmt: skip
    with pytest.raises(error, match=message):
        export_model(home, version.tag, tmp_path / target, form=form, dtype=dtype)
    assert (tmp_path / "text.md").read_text(encoding="utf-8") == TEXT


def test_export_names_a_checkpoint_that_is_gone(
    home: Home, checkpoint: Path, version: ModelVersion, tmp_path: Path
) -> None:
    shutil.rmtree(checkpoint)

    with pytest.raises(ArtifactError, match=f"the checkpoint of {version.tag} .* is in no run"):
        export_model(home, version.tag, tmp_path / "a.gguf", form="gguf", dtype="f32")


def test_export_names_an_unknown_version(home: Home, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no model version none"):
        export_model(home, "none", tmp_path / "a.gguf", form="gguf", dtype="f32")


def test_refused_export_leaves_nothing_behind(home: Home, text: str, tmp_path: Path) -> None:
    folder = make_tiny_checkpoint(tmp_path / "tiny", family="gpt2", max_model_len=64)
    version = import_checkpoint(home, RUN, folder, text=text)
    before = sorted(tmp_path.iterdir())

    with pytest.raises(ArtifactError, match="GPT2LMHeadModel cannot be written as GGUF"):
        export_model(home, version.tag, tmp_path / "a.gguf", form="gguf", dtype="f32")
    assert sorted(tmp_path.iterdir()) == before


def test_gguf_imported_twice_is_kept_once(
    home: Home, version: ModelVersion, text: str, tmp_path: Path
) -> None:
    target = tmp_path / "out.gguf"
    export_model(home, version.tag, target, form="gguf", dtype="f16")
    run = RunFile("test", {"export": RUN.values["export"] | {"name": "twice"}})

    versions = [import_checkpoint(home, run, target, text=text) for _ in range(2)]

    places = [checkpoint_of(home, each).path for each in versions]
    assert places == [home.runs / "twice" / "checkpoint"] * 2
    assert sorted(path.name for path in home.runs.iterdir()) == ["tiny", "twice"]


def test_damaged_gguf_leaves_nothing_in_the_home(home: Home, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF\x03\0\0\0")

    with pytest.raises(ArtifactError, match="is cut short"):
        import_checkpoint(home, RUN, tmp_path / "a.gguf")
    assert list(home.root.iterdir()) == []
