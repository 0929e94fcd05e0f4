"""Compare two windows of interactions with Evidently: did the traffic change?

The methods are always named, because Evidently's default changes from a p-value (low is drift) to a
distance (high is drift) at 1,000 rows. Windows under 300 rows are refused: below that, unchanged
traffic alarms too. What the numbers mean to an operator: docs/monitoring.md.
"""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from everloop.errors import RefusedError
from everloop.records import Interaction
from monitoring.drift_report import (
    QUESTION_TEXT,
    TEXT_METHOD,
    ColumnDrift,
    DriftConfig,
    DriftReport,
    write_summary,
)

if TYPE_CHECKING:
    import pandas

NUMERICAL_METHOD = "wasserstein"  # Evidently norms it by the reference's standard deviation
CATEGORICAL_METHOD = "jensenshannon"


def split_windows(
    interactions: Sequence[Interaction], config: DriftConfig
) -> tuple[list[Interaction], list[Interaction]]:
    """Split a history into reference and current: the newest rows, and the rows just before them.

    Args:
        interactions: in any order.

    Returns:
        (reference, current), oldest first; either may hold too few rows to compare.
    """
    ordered = sorted(interactions, key=lambda interaction: interaction.created_at)
    before, current = ordered[: -config.current_rows], ordered[-config.current_rows :]
    return before[-config.reference_rows :], current


def drift_report(
    reference: Sequence[Interaction],
    current: Sequence[Interaction],
    config: DriftConfig,
    folder: Path,
) -> DriftReport:
    """Compare two windows and write `drift.html`, `drift.json` and `summary.json` into the folder.

    The summary is written last: a folder that has it is complete.

    Raises:
        RefusedError: a window has too few rows to tell drift from chance.
    """
    if min(len(reference), len(current)) < config.min_rows:
        raise RefusedError(
            f"drift needs {config.min_rows} interactions in each window, found {len(reference)} "
            f"reference and {len(current)} current. Come back when more requests were answered."
        )
    from monitoring.features import feature_table

    tables = feature_table(reference), feature_table(current)
    left_out = _left_out(*tables, config.min_rows)
    folder.mkdir(parents=True, exist_ok=True)
    columns = _compare(*tables, left_out, config, folder)
    text = _compare_questions(reference, current, config, left_out)
    share = sum(column.detected for column in columns) / len(columns)
    report = DriftReport(
        created_at=time.time(),
        share=share,
        detected=share >= config.share_threshold or bool(text and text.detected),
        columns=columns,
        question_text=text,
        left_out=left_out,
        reference_rows=len(reference),
        current_rows=len(current),
        reference_model_versions=_model_versions(reference),
        current_model_versions=_model_versions(current),
        html=folder / "drift.html",
        json_report=folder / "drift.json",
    )
    write_summary(report, folder)
    return report


def _left_out(
    reference: "pandas.DataFrame", current: "pandas.DataFrame", min_rows: int
) -> dict[str, str]:
    counts = {name: (reference[name].count(), current[name].count()) for name in reference}
    return {
        name: f"{before} reference and {now} current rows have a value, {min_rows} are needed"
        for name, (before, now) in counts.items()
        if min(before, now) < min_rows
    }


def _compare(
    reference: "pandas.DataFrame",
    current: "pandas.DataFrame",
    left_out: dict[str, str],
    config: DriftConfig,
    folder: Path,
) -> tuple[ColumnDrift, ...]:
    """Let Evidently compare the columns; some always are, because every interaction has them."""
    os.environ.setdefault("DO_NOT_TRACK", "1")  # Evidently reads it when it is imported
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    from monitoring.features import CATEGORICAL, NUMERICAL

    numerical = [name for name in NUMERICAL if name not in left_out]
    categorical = [name for name in CATEGORICAL if name not in left_out]
    definition = DataDefinition(numerical_columns=numerical, categorical_columns=categorical)
    preset = DataDriftPreset(
        columns=[*numerical, *categorical],
        drift_share=config.share_threshold,
        num_method=NUMERICAL_METHOD,
        num_threshold=config.numerical_threshold,
        cat_method=CATEGORICAL_METHOD,
        cat_threshold=config.categorical_threshold,
    )
    datasets = (
        Dataset.from_pandas(table[[*numerical, *categorical]], data_definition=definition)
        for table in (current, reference)
    )
    snapshot = Report([preset]).run(*datasets)
    text = snapshot.json()
    snapshot.save_html(str(folder / "drift.html"))
    (folder / "drift.json").write_text(text, encoding="utf-8")
    settings = [(metric["config"], metric["value"]) for metric in json.loads(text)["metrics"]]
    return tuple(
        _column_drift(setting["column"], setting["method"], score, setting["threshold"])
        for setting, score in settings
        if setting["type"].endswith(":ValueDrift")
    )


def _compare_questions(
    reference: Sequence[Interaction],
    current: Sequence[Interaction],
    config: DriftConfig,
    left_out: dict[str, str],
) -> ColumnDrift | None:
    from monitoring.domain_classifier import text_auc
    from monitoring.features import question

    before = [text for row in reference if (text := question(row))]
    now = [text for row in current if (text := question(row))]
    if min(len(before), len(now)) < config.min_rows:
        left_out[QUESTION_TEXT] = (
            f"{len(before)} reference and {len(now)} current rows kept their text, "
            f"{config.min_rows} are needed"
        )
        return None
    auc = text_auc(before, now, config.seed)
    return _column_drift(QUESTION_TEXT, TEXT_METHOD, auc, config.text_auc_threshold)


def _column_drift(column: str, method: str, score: float, threshold: float) -> ColumnDrift:
    return ColumnDrift(
        column=column,
        method=method,
        score=score,
        threshold=threshold,
        detected=score >= threshold,
    )


def _model_versions(interactions: Sequence[Interaction]) -> tuple[str, ...]:
    return tuple(sorted({interaction.model_version for interaction in interactions}))
