from pathlib import Path

import pytest

from everloop.cli_options import read_run
from everloop.errors import ConfigError
from everloop.settings import RunFile
from feedback.loop_config import check_loop


def run(*overrides: str) -> RunFile:
    return RunFile.load(None, overrides)


def test_the_defaults_fit_one_another() -> None:
    check_loop(run())


def test_a_trigger_that_the_gate_cannot_judge_is_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=r"^defaults: trigger\.min_corrections = 60 starts a round in which about 24 rows are "
        r"held out \(feedback\.holdout_share = 0\.4\), and the gate decides nothing below 30 "
        r"\(gate\.min_rows\)\. Set trigger\.min_corrections to 75 or more, or change the others\.$",
    ):
        check_loop(run("trigger.min_corrections=60", "feedback.holdout_share=0.4"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trigger.min_new_feedback=50"], "trigger.min_new_feedback = 50 starts a round"),
        (["feedback.min_holdout_rows=60"], "below 60 (feedback.min_holdout_rows)"),
        (["gate.min_rows=100"], "below 100 (gate.min_rows). Set trigger.min_corrections to 334"),
        (["feedback.holdout_share=0.0"], "feedback.holdout_share = 0 holds nothing out"),
        (
            ["feedback.holdout_share=0.9"],
            "about 13 rows are left to learn from (feedback.holdout_share = 0.9), at least 20",
        ),
        (
            ["loop.validation_windows=20", "gate.min_windows=30"],
            "loop.validation_windows = 20 is less than gate.min_windows = 30",
        ),
    ],
)
def test_what_does_not_fit_is_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_loop(run(*overrides))
    assert message in str(caught.value)


def test_what_just_fits_is_taken() -> None:
    check_loop(run("trigger.min_corrections=100"))
    with pytest.raises(ConfigError):
        check_loop(run("trigger.min_corrections=99"))


def test_the_configuration_that_ships_fits() -> None:
    check_loop(RunFile.load(Path(__file__).parents[2] / "configs" / "python-docs.toml"))


def test_a_command_refuses_a_contradiction_when_it_reads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[trigger]\nmin_corrections = 60\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"run\.toml: trigger\.min_corrections = 60 starts"):
        read_run(path, None)
    read_run(path, ["feedback.holdout_share=0.5"])
