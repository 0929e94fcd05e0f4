"""What a drift run is told and what it answers: its settings, its verdict, its summary in words.

Light at import, so that the command line and the loop can read settings and summaries; drift.py
computes.
"""

import json
import logging
from pathlib import Path

from pydantic import Field

from everloop.records import Record
from everloop.settings import Config

logger = logging.getLogger(__name__)

QUESTION_TEXT = "question_text"  # the column name of the domain classifier's number
TEXT_METHOD = "domain_classifier_auc"
SUMMARY_NAME = "summary.json"


class DriftConfig(Config):
    """Table [drift]: which interactions are compared, and what counts as drift."""

    current_rows: int = Field(500, ge=300, description="newest interactions, the current window")
    reference_rows: int = Field(
        1_000, ge=300, description="interactions before them, the reference window (at most)"
    )
    min_rows: int = Field(
        300, ge=300, description="a window or column with fewer rows is not compared"
    )
    numerical_threshold: float = Field(
        0.15, gt=0, description="drift of a number: normed Wasserstein distance from here on"
    )
    categorical_threshold: float = Field(
        0.1, gt=0, le=1, description="drift of a category: Jensen-Shannon distance from here on"
    )
    share_threshold: float = Field(
        0.5, gt=0, le=1, description="drift of the traffic: this share of the columns from here on"
    )
    text_auc_threshold: float = Field(
        0.6, gt=0.5, le=1, description="drift of the questions: classifier's AUC from here on"
    )
    interval_minutes: float = Field(15.0, gt=0, description="time between two runs of the monitor")
    keep_reports: int = Field(20, ge=1, description="newest reports that are kept")
    seed: int = Field(0, ge=0, description="of the classifier's folds")


class ColumnDrift(Record):
    """The comparison of one column; a higher score is more drift, whatever the method."""

    column: str
    method: str
    score: float
    threshold: float
    detected: bool


class DriftReport(Record):
    """The result of one drift run.

    Attributes:
        created_at: Unix time.
        share: of the compared columns that drifted, 0 to 1; the question text is not among them.
        question_text: the domain classifier's AUC, or None where too little text was kept.
        left_out: column -> why it was not compared.
        model_versions: that answered in each window; a new model explains much drift.
    """

    created_at: float
    share: float
    detected: bool
    columns: tuple[ColumnDrift, ...]
    question_text: ColumnDrift | None
    left_out: dict[str, str]
    reference_rows: int
    current_rows: int
    reference_model_versions: tuple[str, ...]
    current_model_versions: tuple[str, ...]
    html: Path
    json_report: Path  # Evidently's own

    @property
    def compared(self) -> tuple[ColumnDrift, ...]:
        """All columns, the question text last if there is any."""
        return (*self.columns, *((self.question_text,) if self.question_text else ()))

    @property
    def drifted(self) -> tuple[ColumnDrift, ...]:
        """The compared columns that drifted, strongest first."""
        found = [column for column in self.compared if column.detected]
        return tuple(sorted(found, key=lambda column: -column.score / column.threshold))

    @property
    def verdict(self) -> str:
        """The result in one or two sentences."""
        count = sum(column.detected for column in self.columns)
        verdict = (
            f"{'Drift' if self.detected else 'No drift'}: {count} of {len(self.columns)} columns "
            f"changed between {self.reference_rows} reference and {self.current_rows} current "
            "interactions"
        )
        if self.question_text:
            verdict += (
                f"; a classifier tells the questions apart with AUC {self.question_text.score:.2f}"
                f" (drift from {self.question_text.threshold:g} on)"
            )
        names = ", ".join(column.column for column in self.drifted)
        return f"{verdict}. Changed: {names}." if names else f"{verdict}."


def write_summary(report: DriftReport, folder: Path) -> Path:
    """Write the report as plain JSON, the verdict in words first, beside Evidently's files."""
    path = folder / SUMMARY_NAME
    content = {"verdict": report.verdict, **report.model_dump(mode="json")}
    partial = path.with_name(f"{path.name}.part")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return partial.rename(path)


def newest_summary(reports: Path) -> DriftReport | None:
    """Read the newest complete report of a folder of reports.

    Args:
        reports: holds one folder per run, named so that names sort by time; may be absent.
    """
    for path in sorted(reports.glob(f"*/{SUMMARY_NAME}"), reverse=True):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            content.pop("verdict", None)
            return DriftReport.model_validate(content)
        except (ValueError, TypeError, AttributeError) as error:
            logger.warning("%s is no drift summary of this release, skipped: %s", path, error)
    return None
