import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from everloop.errors import RefusedError
from everloop.records import Interaction
from monitoring.drift import drift_report, split_windows
from monitoring.drift_report import DriftConfig, DriftReport

Make = Callable[..., list[Interaction]]

# Ten of eleven columns move with the topic; these two are drawn alike in both.
UNMOVED = {"route", "completion_tokens"}


def test_split_windows_takes_the_newest_and_those_before(interactions: Make) -> None:
    history = interactions(2_000, seed=0)
    reference, current = split_windows(history[::-1], DriftConfig())
    assert current == history[1_500:]
    assert reference == history[500:1_500]


def test_split_windows_of_a_short_history_keeps_the_current_full(interactions: Make) -> None:
    history = interactions(700, seed=0)
    reference, current = split_windows(history, DriftConfig())
    assert (len(reference), len(current)) == (200, 500)


def test_split_windows_of_nothing() -> None:
    assert split_windows([], DriftConfig()) == ([], [])


@pytest.mark.parametrize(("before", "now"), [(299, 500), (1_000, 299), (0, 0)])
def test_small_windows_are_refused_with_both_counts(
    interactions: Make, tmp_path: Path, before: int, now: int
) -> None:
    with pytest.raises(RefusedError, match=f"found {before} reference and {now} current"):
        drift_report(
            interactions(before, seed=1), interactions(now, seed=2), DriftConfig(), tmp_path / "r"
        )
    assert not (tmp_path / "r").exists()


def test_import_stays_light() -> None:
    code = (
        "import sys, monitoring.drift; print({'evidently', 'pandas', 'sklearn'} & {*sys.modules})"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert output.stdout == b"set()\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports")


def shifted_report(interactions: Make, folder: Path) -> DriftReport:
    return drift_report(
        interactions(1_000, seed=1),
        interactions(500, seed=2, shifted=True),
        DriftConfig(),
        folder / "shifted",
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rows", [(1_000, 500), (300, 300)])
def test_unchanged_traffic_is_quiet(
    interactions: Make, tmp_path: Path, seed: int, rows: tuple[int, int]
) -> None:
    report = drift_report(
        interactions(rows[0], seed=2 * seed),
        interactions(rows[1], seed=2 * seed + 1),
        DriftConfig(),
        tmp_path,
    )
    assert not report.detected
    assert report.share < 0.2
    assert report.question_text is not None
    assert not report.question_text.detected


@pytest.mark.slow
def test_changed_traffic_alarms(interactions: Make, folder: Path) -> None:
    report = shifted_report(interactions, folder)
    assert report.detected
    assert {"ttft_seconds", "question_chars", "answer_repetition_ratio", "finish_reason"} <= {
        column.column for column in report.drifted
    }
    assert not UNMOVED & {column.column for column in report.drifted}
    assert report.question_text is not None
    assert report.question_text.score > 0.95
    assert report.left_out == {}
    assert report.current_model_versions == ("everloop:v2",)


@pytest.mark.slow
def test_methods_and_thresholds_are_the_configured_ones(interactions: Make, folder: Path) -> None:
    columns = {column.column: column for column in shifted_report(interactions, folder).columns}
    assert len(columns) == 11
    numbers = {column for column in columns.values() if column.method == "wasserstein"}
    assert {column.threshold for column in numbers} == {0.15}
    assert len(numbers) == 9
    assert columns["route"].method == "jensenshannon"
    assert columns["finish_reason"].threshold == 0.1


@pytest.mark.slow
def test_report_files_are_written_and_self_contained(interactions: Make, folder: Path) -> None:
    report = shifted_report(interactions, folder)
    html = report.html.read_text(encoding="utf-8")
    assert "answer_repetition_ratio" in html
    assert not [tag for tag in ('<script src="http', '<link href="http') if tag in html]
    assert len(json.loads(report.json_report.read_text(encoding="utf-8"))["metrics"]) == 12
    summary = json.loads((folder / "shifted" / "summary.json").read_text(encoding="utf-8"))
    assert summary["verdict"] == report.verdict


@pytest.mark.slow
def test_columns_without_text_are_left_out_and_named(interactions: Make, tmp_path: Path) -> None:
    report = drift_report(
        interactions(400, seed=1),
        interactions(300, seed=2, text=False),
        DriftConfig(),
        tmp_path,
    )
    assert [column.column for column in report.columns] == [
        "prompt_tokens",
        "completion_tokens",
        "ttft_seconds",
        "e2e_seconds",
        "finish_reason",
        "route",
    ]
    assert report.left_out["answer_chars"] == (
        "400 reference and 0 current rows have a value, 300 are needed"
    )
    assert report.question_text is None
    assert report.left_out["question_text"] == (
        "400 reference and 0 current rows kept their text, 300 are needed"
    )


@pytest.mark.slow
def test_some_rows_without_a_first_token_do_not_matter(interactions: Make, tmp_path: Path) -> None:
    current = [
        row.model_copy(update={"ttft_seconds": None}) if index % 10 == 0 else row
        for index, row in enumerate(interactions(500, seed=2))
    ]
    report = drift_report(interactions(500, seed=1), current, DriftConfig(), tmp_path)
    assert "ttft_seconds" in {column.column for column in report.columns}
    assert not report.detected
