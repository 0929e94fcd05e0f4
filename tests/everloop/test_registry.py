"""Model versions are saved once, found by tag and checked by hash."""

from pathlib import Path

import pytest

from everloop.errors import ArtifactError, NotFoundError
from everloop.manifest import (
    ExportReport,
    Lineage,
    Manifest,
    SpecialTokens,
    read_manifest,
    sha256_file,
    verify,
)
from everloop.registry import Registry
from everloop.settings import Home


def version_folder(folder: Path, version: str = "v1") -> Path:
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"graph")
    manifest = Manifest(
        name="everloop",
        version=version,
        family="qwen3",
        architecture="Qwen3ForCausalLM",
        parameters=1,
        vocab_size=8,
        hidden_size=32,
        max_model_len=16,
        max_query_len=16,
        special_tokens=SpecialTokens(bos_token_id=0, eos_token_ids=(0,), pad_token_id=0),
        state=(),
        weight_precision="fp32",
        export=ExportReport(
            max_abs_logit_diff=0.0,
            val_loss_fp32=1.0,
            val_loss=1.0,
            val_bpb=0.5,
            validation_tokens=10,
        ),
        evaluation={},
        lineage=Lineage(
            checkpoint_sha256="00", datasets=(), parent=None, config={}, seed=0, packages={}
        ),
        files={"model.onnx": sha256_file(folder / "model.onnx")},
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json(), encoding="utf-8")
    return folder


def test_save_then_get_gives_the_same_manifest(home: Home, tmp_path: Path) -> None:
    folder = version_folder(tmp_path / "v")
    saved = Registry(home).save(folder)
    assert saved.tag == "everloop:v1"
    assert saved.manifest == read_manifest(folder)
    assert Registry(home).get("everloop:v1").path == saved.path
    assert (saved.path / "model.onnx").read_bytes() == b"graph"


def test_a_tag_is_saved_once(home: Home, tmp_path: Path) -> None:
    folder = version_folder(tmp_path / "v")
    Registry(home).save(folder)
    with pytest.raises(ArtifactError, match="cannot be saved"):
        Registry(home).save(folder)


def test_list_is_oldest_first_and_latest_is_the_newest(home: Home, tmp_path: Path) -> None:
    registry = Registry(home)
    for version in ("v1", "v2", "v3"):
        registry.save(version_folder(tmp_path / version, version))
    assert [found.tag for found in registry.list()] == ["everloop:v1", "everloop:v2", "everloop:v3"]
    assert registry.get("everloop:latest").tag == "everloop:v3"


def test_delete_removes_the_version(home: Home, tmp_path: Path) -> None:
    registry = Registry(home)
    registry.save(version_folder(tmp_path / "v"))
    registry.delete("everloop:v1")
    assert registry.list() == []


def test_unknown_version_names_the_known_ones(home: Home, tmp_path: Path) -> None:
    registry = Registry(home)
    registry.save(version_folder(tmp_path / "v"))
    with pytest.raises(NotFoundError, match="no model version everloop:v9; known: everloop:v1"):
        registry.get("everloop:v9")


def test_two_homes_do_not_mix(home: Home, tmp_path: Path) -> None:
    Registry(home).save(version_folder(tmp_path / "v"))
    assert Registry(Home(tmp_path / "other").create()).list() == []


def test_changed_byte_is_refused_by_hash(tmp_path: Path) -> None:
    folder = version_folder(tmp_path / "v")
    (folder / "model.onnx").write_bytes(b"grapH")
    with pytest.raises(ArtifactError, match=r"model\.onnx was changed after everloop:v1"):
        verify(folder)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    folder = version_folder(tmp_path / "v")
    (folder / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match="is missing from model version everloop:v1"):
        verify(folder)


def test_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a model version"):
        read_manifest(tmp_path)


def test_manifest_of_another_schema_is_refused(tmp_path: Path) -> None:
    folder = version_folder(tmp_path / "v")
    path = folder / "manifest.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace('"schema_version":1', '"schema_version":9')
    )
    with pytest.raises(ArtifactError, match="schema_version"):
        read_manifest(folder)
