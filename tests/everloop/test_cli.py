"""The command line: every verb teaches itself, results go to stdout, errors are one sentence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from everloop.cli import app, main
from everloop.settings import Home

ROOT = Path(__file__).parents[2]


def everloop(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert isinstance(end.value.code, int)
    return end.value.code


def verbs(group: typer.Typer, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [
        (*prefix, command.name or command.callback.__name__)  # type: ignore[union-attr]
        for command in group.registered_commands
    ]
    for inner in group.registered_groups:
        assert inner.typer_instance and inner.name
        found += verbs(inner.typer_instance, (*prefix, inner.name))
    return found


@pytest.mark.parametrize("verb", verbs(app), ids=" ".join)
def test_every_verb_teaches_itself(verb: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*verb, "--help"])
    assert result.exit_code == 0
    assert len(result.stdout.split("Options")[0].strip().splitlines()) >= 3  # usage and purpose


def test_help_loads_nothing_heavy() -> None:
    probe = (
        "import sys; from typer.testing import CliRunner; from everloop.cli import app; "
        "CliRunner().invoke(app, ['--help']); "
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout.split()
    heavy = {"torch", "transformers", "bentoml", "numpy", "sqlalchemy", "evidently", "onnxruntime"}
    assert heavy & set(loaded) == set()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "--set", "pretrain.max_step=3"], 2, "unknown key pretrain.max_step"),
        (["train", "--set", "pretran.max_steps=3"], 2, "unknown table [pretran]"),
        (["train"], 2, "has no dataset yet"),
        (["data", "build", "--config", "absent.toml"], 2, "absent.toml: no such configuration"),
        (["data", "build", "--set", "data.sources=['absent']"], 2, "absent"),
        (["export", "absent"], 2, "no run and no checkpoint folder absent"),
        (["serve"], 2, "no model version to serve"),
        (["serve", "--host", "0.0.0.0"], 2, "only this machine"),
        (["models", "show", "everloop:v9"], 2, "no model version everloop:v9; known: none yet"),
        (["models", "trace", "chatcmpl-9"], 2, "chatcmpl-9"),
        (["models", "rollback", "--reason", "test"], 2, "nothing to roll back to"),
        (["loop", "run", "--once"], 3, "has no champion"),
        (["drift", "report"], 3, "drift needs 300 interactions in each window, found 0"),
        (["chat", "--url", "http://127.0.0.1:9/v1"], 1, "no service answers at"),
    ],
)
def test_bad_input_is_one_sentence_and_a_code(
    home: Home, capfd: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    if arguments[0] != "chat":
        arguments = [*arguments, "--home", str(home.root)]
    assert everloop(*arguments) == code
    shown = capfd.readouterr()
    errors = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_home_that_is_a_file_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert everloop("models", "list", "--home", str(tmp_path / "file")) == 2
    assert "cannot be made" in capfd.readouterr().err


def test_json_is_one_document_on_stdout(home: Home, capfd: pytest.CaptureFixture[str]) -> None:
    assert everloop("feedback", "stats", "--home", str(home.root), "--json") == 0
    assert json.loads(capfd.readouterr().out)["positive"] == 0


def test_the_command_runs_as_a_module(home: Home) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "everloop", "models", "list", "--home", str(home.root), "--json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert json.loads(result.stdout) == []
