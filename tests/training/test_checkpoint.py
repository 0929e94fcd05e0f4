import json
import shutil
from pathlib import Path

import pytest

from everloop.errors import ArtifactError
from everloop.manifest import sha256_file
from training.checkpoint import SIDECAR, read_checkpoint, write_sidecar


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def test_read_checkpoint_gives_lineage_and_metrics(folder: Path) -> None:
    checkpoint = read_checkpoint(folder)
    assert checkpoint.metrics == {"val_loss": 6.2}
    lineage = checkpoint.lineage
    assert lineage.checkpoint_sha256 == sha256_file(folder / "model.safetensors")
    assert [dataset.id for dataset in lineage.datasets] == ["ds-0"]
    assert lineage.config == {"kind": "pretrain"}
    assert lineage.packages["torch"].startswith("2.")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_read_checkpoint_refuses_a_changed_byte(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{name} was changed after the checkpoint"):
        read_checkpoint(folder)


def test_read_checkpoint_names_a_missing_file(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ArtifactError, match=r"is no checkpoint: config.json is missing"):
        read_checkpoint(folder)


def test_read_checkpoint_refuses_another_schema(folder: Path) -> None:
    record = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
    (folder / SIDECAR).write_text(json.dumps({**record, "schema_version": 2}), encoding="utf-8")
    with pytest.raises(ArtifactError, match="schema_version"):
        read_checkpoint(folder)


def test_read_checkpoint_takes_a_foreign_folder(folder: Path) -> None:
    (folder / SIDECAR).unlink()
    checkpoint = read_checkpoint(folder)
    assert checkpoint.sha256 == sha256_file(folder / "model.safetensors")
    assert checkpoint.lineage.datasets == ()


def test_read_checkpoint_identifies_sharded_weights(folder: Path) -> None:
    (folder / SIDECAR).unlink()
    shutil.copyfile(folder / "model.safetensors", folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00002-of-00002.safetensors")
    before = read_checkpoint(folder).sha256
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"other")
    assert read_checkpoint(folder).sha256 != before


def test_read_checkpoint_refuses_pickled_weights(folder: Path) -> None:
    (folder / SIDECAR).unlink()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match="read from safetensors only"):
        read_checkpoint(folder)


def test_write_sidecar_refuses_an_incomplete_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"model.safetensors is missing"):
        write_sidecar(tmp_path, datasets=[], config={}, seed=0, parent=None, metrics={})
