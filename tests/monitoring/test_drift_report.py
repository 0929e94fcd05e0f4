import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from everloop.errors import ConfigError
from everloop.settings import RunFile
from monitoring.drift_report import (
    ColumnDrift,
    DriftConfig,
    DriftReport,
    newest_summary,
    write_summary,
)

CONFIG_FILE = Path(__file__).parents[2] / "configs" / "python-docs.toml"


def column(name: str, score: float, threshold: float = 0.15) -> ColumnDrift:
    return ColumnDrift(
        column=name,
        method="wasserstein",
        score=score,
        threshold=threshold,
        detected=score >= threshold,
    )


def report(folder: Path, **changes: Any) -> DriftReport:
    content: dict[str, Any] = {
        "created_at": 1_700_000_000.0,
        "share": 0.5,
        "detected": True,
        "columns": (
            column("prompt_tokens", 0.2),
            column("e2e_seconds", 0.1),
            column("answer_chars", 0.9),
            column("ttft_seconds", 0.14),
        ),
        "question_text": column("question_text", 0.9, 0.6),
        "left_out": {},
        "reference_rows": 1_000,
        "current_rows": 500,
        "reference_model_versions": ("everloop:v1",),
        "current_model_versions": ("everloop:v1",),
        "html": folder / "drift.html",
        "json_report": folder / "drift.json",
    }
    return DriftReport(**{**content, **changes})


def test_verdict_says_what_changed_strongest_first(tmp_path: Path) -> None:
    assert report(tmp_path).verdict == (
        "Drift: 2 of 4 columns changed between 1000 reference and 500 current interactions; a "
        "classifier tells the questions apart with AUC 0.90 (drift from 0.6 on). Changed: "
        "answer_chars, question_text, prompt_tokens."
    )


def test_verdict_without_drift_and_without_text(tmp_path: Path) -> None:
    quiet = report(
        tmp_path,
        share=0.0,
        detected=False,
        columns=(column("e2e_seconds", 0.1),),
        question_text=None,
    )
    assert quiet.verdict == (
        "No drift: 0 of 1 columns changed between 1000 reference and 500 current interactions."
    )


def test_write_summary_is_plain_json_with_the_verdict_first(tmp_path: Path) -> None:
    path = write_summary(report(tmp_path), tmp_path)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert path == tmp_path / "summary.json"
    assert next(iter(content)) == "verdict"
    assert content["share"] == 0.5
    assert content["columns"][2]["score"] == 0.9
    assert content["html"] == str(tmp_path / "drift.html")
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]


def put(folder: Path, **changes: Any) -> DriftReport:
    folder.mkdir(parents=True)
    written = report(folder, **changes)
    write_summary(written, folder)
    return written


def test_newest_summary_gives_the_last_report_back(tmp_path: Path) -> None:
    put(tmp_path / "20260101T000000Z", share=0.1)
    newest = put(tmp_path / "20260102T000000Z", share=0.2)
    assert newest_summary(tmp_path) == newest


def test_newest_summary_skips_a_report_that_was_not_finished(tmp_path: Path) -> None:
    complete = put(tmp_path / "20260101T000000Z")
    (tmp_path / "20260102T000000Z").mkdir()
    assert newest_summary(tmp_path) == complete


@pytest.mark.parametrize("text", ["{}", "[]", "no json"])
def test_newest_summary_names_a_file_of_another_kind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    complete = put(tmp_path / "20260101T000000Z")
    odd = tmp_path / "20260102T000000Z"
    odd.mkdir()
    (odd / "summary.json").write_text(text, encoding="utf-8")
    assert newest_summary(tmp_path) == complete
    assert str(odd) in caplog.text


def test_newest_summary_of_no_reports_is_none(tmp_path: Path) -> None:
    assert newest_summary(tmp_path / "absent") is None


@pytest.mark.parametrize("key", ["current_rows", "reference_rows", "min_rows"])
def test_config_takes_no_window_under_300_rows(key: str) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 300"):
        DriftConfig.model_validate({key: 299})


def test_config_names_an_unknown_key() -> None:
    with pytest.raises(ConfigError, match=r"drift\.min_row; did you mean min_rows\?"):
        RunFile.load(None, ("drift.min_row=400",)).table("drift", DriftConfig)


def test_shipped_table_is_valid() -> None:
    run = RunFile.load(CONFIG_FILE)
    assert "drift" in run.values
    assert run.table("drift", DriftConfig).current_rows == 500
