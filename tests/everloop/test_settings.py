"""Reading the TOML of a run: what is wrong is named, nothing is ignored."""

from pathlib import Path

import pytest
from pydantic import Field

from everloop.errors import ConfigError
from everloop.settings import Config, Home, RunFile, Settings


class Example(Config):
    max_steps: int = Field(100, ge=1)
    name: str = "base"


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_table_reads_values_and_keeps_defaults(tmp_path: Path) -> None:
    run = RunFile.load(write(tmp_path, "[pretrain]\nmax_steps = 7\n"))
    assert run.table("pretrain", Example) == Example(max_steps=7, name="base")


def test_override_beats_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "[pretrain]\nmax_steps = 7\n")
    run = RunFile.load(path, ("pretrain.max_steps=9", "pretrain.name=tiny"))
    assert run.table("pretrain", Example) == Example(max_steps=9, name="tiny")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[pretrain]\nmax_step = 7\n", "unknown key pretrain.max_step; did you mean max_steps?"),
        (
            "[pretrain]\nmax_steps = '7'\n",
            "pretrain.max_steps: Input should be a valid integer, got '7'.",
        ),
        ("[pretrain]\nmax_steps = 0\n", "greater than or equal to 1, got 0."),
        ("[pretran]\nmax_steps = 7\n", "unknown table [pretran]; did you mean pretrain?"),
        ("pretrain = 7\n", "pretrain must be a table, got 7."),
        ("[pretrain\n", "not a readable TOML file"),
    ],
)
def test_wrong_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        RunFile.load(write(tmp_path, text)).table("pretrain", Example)
    assert message in str(error.value)
    assert "run.toml" in str(error.value)


def test_missing_file_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: no such configuration file"):
        RunFile.load(Path("absent.toml"))


def test_override_without_a_table_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--set max_steps=3: expected table\.key=value"):
        RunFile.load(None, ("max_steps=3",))


def test_override_reaches_a_table_in_a_table(tmp_path: Path) -> None:
    path = write(tmp_path, "[data]\nseed = 1\n[data.executor]\nworkers = 2\n")
    run = RunFile.load(path, ("data.executor.kind=ray", "data.c4.enabled=true"))
    assert run.values["data"] == {
        "seed": 1, "executor": {"workers": 2, "kind": "ray"}, "c4": {"enabled": True},
    }  # fmt: skip
    with pytest.raises(ConfigError, match="seed is a value and holds no keys"):
        RunFile.load(path, ("data.seed.x=3",))


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERLOOP_HOME", "elsewhere")
    assert Settings().home == Path("elsewhere")


def test_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be made"):
        Home(path).create()
