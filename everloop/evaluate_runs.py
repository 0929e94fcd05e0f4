"""Evaluate a run by name, or when its training has ended, and write its report. Wiring only."""

import logging
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from everloop.errors import DataError, NotFoundError
from everloop.lifecycle import find_checkpoint, newest_dataset
from everloop.records import DatasetRow
from everloop.settings import Home
from training.checkpoint import Checkpoint, read_checkpoint
from training.dataset import read_rows

HELD_OUT_ROWS = 64  # of each kind, by `everloop eval`
# At the end of a training, which should not take noticeably longer for it: so many rows of each
# kind, and of these no more than come to so many characters, since texts are long.
TRAINING_ROWS = 16
TRAINING_CHARACTERS = 24_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunEvaluation:
    """What an evaluation found, and where its report lies."""

    html: Path
    json: Path
    verdict: str
    val_loss: float | None
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
    checkpoint = find_checkpoint(home, name)
    before = _parent(home, checkpoint, parent)
    rows = held_out_rows(home, HELD_OUT_ROWS)
    return _evaluate(home, checkpoint, None if before is None else before.path, rows, tasks)


def report_training(home: Home, checkpoint: Checkpoint, parent: Path | None) -> None:
    """Write the report of a run that has ended, unless it has one.

    A run stays a good run when nothing can be measured on the held-out rows: then its report
    tells the rest.

    Args:
        checkpoint: the run's result.
        parent: checkpoint that it started from.
    """
    from training.distributed import is_main_process

    page = report_page(home, checkpoint)
    if page.is_file() or not is_main_process():
        return
    try:
        rows = held_out_rows(home, TRAINING_ROWS, TRAINING_CHARACTERS)
        _evaluate(home, checkpoint, parent, rows, None)
    except (DataError, NotFoundError) as error:
        logger.warning("run=%s report without an evaluation: %s", _name(checkpoint.path), error)
        _evaluate(home, checkpoint, None, [], None)
    logger.info("run=%s report=%s", _name(checkpoint.path), page)


def report_page(home: Home, checkpoint: Checkpoint) -> Path:
    """Where the report of a checkpoint lies: in its run, or under the home if it has none."""
    return _folder(home, checkpoint.path) / "report.html"


def held_out_rows(home: Home, limit: int, characters: int | None = None) -> list[DatasetRow]:
    """Validation rows of the newest dataset, evenly spread over it.

    Args:
        limit: of the rows of each kind.
        characters: of the rows of each kind, all together; the first stays however long it is.

    Raises:
        NotFoundError: there is no dataset.
    """
    rows = [
        row for row in read_rows(home.data / newest_dataset(home).id) if row.split == "validation"
    ]
    chosen: list[DatasetRow] = []
    for kind in dict.fromkeys(row.kind for row in rows):
        same = [row for row in rows if row.kind == kind]
        spread = same[:: max(1, len(same) // limit)][:limit]
        ends = accumulate(map(_characters, spread))
        fits = [row for row, end in zip(spread, ends, strict=True) if end <= (characters or end)]
        chosen += fits or spread[:1]
    return chosen


def _characters(row: DatasetRow) -> int:
    said = (*(row.messages or ()), *(row.chosen or ()), *(row.rejected or ()))
    return len(row.text or "") + sum(len(message.content) for message in said)


def _evaluate(
    home: Home,
    checkpoint: Checkpoint,
    parent: Path | None,
    rows: list[DatasetRow],
    tasks: Path | None,
) -> RunEvaluation:
    from training.distributed import choose_device
    from training.evaluation import evaluate_checkpoint
    from training.run_report import make_report
    from training.run_report_page import write_report

    threads = checkpoint.record.setting("num_threads")
    found = evaluate_checkpoint(
        checkpoint.path,
        rows,
        parent=parent,
        task_file=tasks,
        # As in the training, which may have stood beside a live server.
        num_threads=None if threads is None else int(threads),
        device=choose_device(checkpoint.record.setting("device")),
    )
    folder = _folder(home, checkpoint.path)
    folder.mkdir(parents=True, exist_ok=True)
    report = make_report(
        folder, checkpoint, found, parent=None if parent is None else _name(parent)
    )
    return RunEvaluation(
        html=write_report(report, folder),
        json=folder / "report.json",
        verdict=report.verdict,
        val_loss=checkpoint.metrics.get("val_loss"),
        bits_per_byte={group.name: round(group.bits_per_byte, 4) for group in found.quality},
        preference={name: round(value, 4) for name, value in found.preference.items()},
        tasks_right=sum(task.is_right for task in found.tasks) if tasks else None,
        tasks=len(found.tasks) if tasks else None,
    )


def _folder(home: Home, checkpoint: Path) -> Path:
    return checkpoint.parent if checkpoint.name == "checkpoint" else home.reports / checkpoint.name


def _name(checkpoint: Path) -> str:
    return checkpoint.parent.name if checkpoint.name == "checkpoint" else checkpoint.name


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
