"""Evaluate a run by name and write its report. Wiring only."""

from dataclasses import dataclass
from pathlib import Path

from everloop.lifecycle import find_checkpoint
from everloop.settings import Home
from everloop.train_runs import held_out_rows
from training.checkpoint import Checkpoint, read_checkpoint

HELD_OUT_ROWS = 64  # of each kind


@dataclass(frozen=True, slots=True)
class RunEvaluation:
    """What an evaluation found, and where its report lies."""

    html: Path
    json: Path
    verdict: str
    val_loss: float
    bits_per_byte: dict[str, float]  # by source
    preference: dict[str, float]  # of training.evaluation
    tasks_right: int | None
    tasks: int | None


def evaluate_run(
    home: Home, name: str, *, tasks: Path | None = None, parent: str | None = None
) -> RunEvaluation:
    """Evaluate a checkpoint on held-out rows and a user's tasks, and write its report.

    Args:
        name: of a run, or a checkpoint folder.
        tasks: JSONL file of `training.tasks`.
        parent: run or folder to compare with; absent: what the run started from, if it is here.

    Raises:
        ArtifactError: no such checkpoint.
        DataError: the task file is no task file, or there are no held-out rows.
    """
    from training.evaluation import evaluate_checkpoint
    from training.run_report import make_report, write_report

    checkpoint = find_checkpoint(home, name)
    before = _parent(home, checkpoint, parent)
    found = evaluate_checkpoint(
        checkpoint.path,
        held_out_rows(home, HELD_OUT_ROWS),
        parent=None if before is None else before.path,
        task_file=tasks,
    )
    folder = checkpoint.path.parent
    report = make_report(
        folder,
        checkpoint,
        samples=found.samples,
        quality=found.quality,
        tasks=found.tasks,
        preference=found.preference,
        parent=None if before is None else before.path.parent.name,
    )
    page = write_report(report, folder)
    return RunEvaluation(
        html=page,
        json=folder / "report.json",
        verdict=report.verdict,
        val_loss=checkpoint.metrics.get("val_loss", float("nan")),
        bits_per_byte={group.name: round(group.bits_per_byte, 4) for group in found.quality},
        preference={name: round(value, 4) for name, value in found.preference.items()},
        tasks_right=sum(task.is_right for task in found.tasks) if tasks else None,
        tasks=len(found.tasks) if tasks else None,
    )


def _parent(home: Home, checkpoint: Checkpoint, name: str | None) -> Checkpoint | None:
    if name is not None:
        return find_checkpoint(home, name)
    wanted = checkpoint.record.config.get("parent_sha256")
    if wanted is not None:
        for folder in sorted(home.runs.glob("*/checkpoint")):
            if folder != checkpoint.path:
                candidate = read_checkpoint(folder)
                if candidate.sha256 == wanted:
                    return candidate
    return None
