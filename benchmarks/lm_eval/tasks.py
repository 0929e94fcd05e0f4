"""A user's own tasks for lm-eval: reads the JSONL file that `everloop eval --tasks` reads too.

lm-eval calls these functions by the names in the YAML files beside. The file is named on its
command line: --metadata '{"tasks": "my-tasks.jsonl"}'. See docs/evaluation.md.
"""

from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from everloop.errors import DataError
from training.tasks import Task, is_same_answer, read_tasks


def load_exact(tasks: str = "", **_: Any) -> DatasetDict:
    """The lines with a written answer."""
    found = [task for task in _read(tasks) if task.choices is None]
    if not found:
        raise DataError(
            f"{tasks} holds no task with a written answer; leave everloop_exact out of --tasks."
        )
    return _as_dataset(found)


def load_choice(tasks: str = "", **_: Any) -> DatasetDict:
    """The lines with choices."""
    found = [task for task in _read(tasks) if task.choices is not None]
    if not found:
        raise DataError(
            f"{tasks} holds no task with choices; leave everloop_choice out of --tasks."
        )
    return _as_dataset(found)


def score_exact(line: dict[str, Any], answers: list[str]) -> dict[str, float]:
    """Say whether the model wrote the answer, apart from case and spaces."""
    return {"exact_match": float(is_same_answer(answers[0], line["answer"]))}


def _read(tasks: str) -> list[Task]:
    if not tasks:
        raise DataError(
            'no task file is given: add --metadata \'{"tasks": "my-tasks.jsonl"}\' to the command.'
        )
    return read_tasks(Path(tasks))


def _as_dataset(found: list[Task]) -> DatasetDict:
    rows = [task.model_dump(exclude_none=True) for task in found]
    return DatasetDict({"test": Dataset.from_list(rows)})
