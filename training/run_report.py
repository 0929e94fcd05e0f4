"""The report of a run as data: what report.json holds. The page is made in run_report_page.py."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from everloop.manifest import DatasetRef
from everloop.records import Record
from training.checkpoint import Checkpoint
from training.curves import Point, read_curves, verdict
from training.machine import hardware
from training.tasks import TaskResult


class Sample(Record):
    """What the model wrote to a prompt, and what its parent had written."""

    prompt: str
    text: str
    expected: str | None = None
    parent_text: str | None = None


class GroupQuality(Record):
    """The quality on one source of held-out rows, before and after."""

    name: str
    rows: int
    tokens: int
    loss: float
    perplexity: float
    bits_per_byte: float
    parent_loss: float | None = None
    parent_bits_per_byte: float | None = None

    @property
    def change(self) -> float | None:
        """Of the bits per byte against the parent, relative; below zero is better."""
        if not self.parent_bits_per_byte:
            return None
        return self.bits_per_byte / self.parent_bits_per_byte - 1


class Findings(Record):
    """What an evaluation found.

    Attributes:
        preference: `accuracy` over pairs and `auc` over ratings, where rows allow, and with a
            parent the same of the implicit reward, `reward_accuracy` and `reward_auc`; each with
            the bounds of its 95 % interval, `_low` and `_high`.
    """

    quality: tuple[GroupQuality, ...] = ()
    samples: tuple[Sample, ...] = ()
    tasks: tuple[TaskResult, ...] = ()
    preference: Mapping[str, float] = Field(default_factory=dict)


class RunReport(Findings):
    """Everything that is known about a finished run."""

    run: str
    method: str
    verdict: str
    metrics: dict[str, float]
    settings: dict[str, str]
    datasets: tuple[DatasetRef, ...]
    packages: dict[str, str]
    hardware: dict[str, str]
    curves: tuple[Point, ...]
    parent: str | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Training speed over the whole run, validation and saving included."""
        seconds = self.metrics.get("seconds")
        return self.metrics["tokens"] / seconds if seconds else None


def make_report(
    run: Path, checkpoint: Checkpoint, found: Findings, *, parent: str | None = None
) -> RunReport:
    """Gather what a run's folder, its checkpoint and an evaluation tell.

    Args:
        run: the run's folder.
        checkpoint: its result.
        found: what the evaluation of the result found.
        parent: name of what the run started from.
    """
    curves = read_curves(run / "history.jsonl")
    record = checkpoint.record
    return RunReport(
        run=run.name,
        method=record.config.get("kind", "unknown"),
        verdict=verdict(curves),
        metrics=record.metrics,
        settings=record.config,
        datasets=record.datasets,
        packages=record.packages,
        hardware=hardware(record.setting("num_threads")),
        curves=tuple(curves),
        parent=parent,
        **{name: getattr(found, name) for name in Findings.model_fields},
    )
