"""The same bits in any company, asked by `everloop models show`."""

import json
from pathlib import Path

import pytest

from everloop.cli import main
from everloop.registry import Registry
from everloop.settings import Home
from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine
from tests.tiny_model import make_tiny_version


@pytest.fixture
def tag(home: Home, tmp_path: Path) -> str:
    return Registry(home).save(make_tiny_version(tmp_path / "version", seed=0)).tag


def shown(home: Home, tag: str, capfd: pytest.CaptureFixture[str]) -> dict[str, object]:
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["models", "show", tag, "--home", str(home.root), "--json"])
    assert end.value.code == 0
    facts: dict[str, object] = json.loads(capfd.readouterr().out)
    return facts


def test_show_measures_as_a_server_does(
    home: Home, tag: str, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = LLMEngine.load(Registry(home).get(tag).path, EngineConfig())
    assert shown(home, tag, capfd)["batch_invariant"] is engine.batch_invariant


def test_version_that_cannot_be_loaded_is_shown_without(
    home: Home, tag: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (Registry(home).get(tag).path / "golden.json").unlink()
    facts = shown(home, tag, capfd)
    assert (facts["name"], facts["batch_invariant"]) == (tag.partition(":")[0], None)
