"""status.json of a run: how far it is, for whoever watches from outside (the monitor's gauges)."""
# ruff: noqa: ARG002 - the Trainer calls every hook with all of its arguments

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.schedule import Budget

_NAMES = {"loss": "train_loss", "eval_loss": "val_loss", "learning_rate": "learning_rate"}


class StatusCallback(TrainerCallback):
    """Rewrites the file at each log entry: losses, tokens per second, seconds left."""

    def __init__(self, path: Path, title: str, budget: Budget) -> None:
        self._path = path
        self._budget = budget
        self._values: dict[str, str | float] = {"run": path.parent.name, "title": title}
        self._first: tuple[float, float] | None = None  # tokens and seconds of this session

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say that the run has begun."""
        self._write("running", state, {})

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over the newest numbers."""
        self._write("running", state, kwargs["logs"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say that the run has ended."""
        self._write("finished", state, {})

    def _write(self, status: str, state: TrainerState, logs: Mapping[str, float]) -> None:
        self._values |= {name: logs[key] for key, name in _NAMES.items() if key in logs}
        fraction, elapsed = self._budget.fraction(state.global_step), self._budget.elapsed
        if "tokens" in logs:
            self._values["tokens"] = logs["tokens"]
            self._count(logs["tokens"], elapsed)
        self._values |= {
            "status": status,
            "step": state.global_step,
            "fraction": round(fraction, 4),
            "seconds": round(elapsed, 1),
            "seconds_left": round(elapsed * (1 - fraction) / fraction, 1) if fraction else 0.0,
            "updated_at": round(time.time(), 1),
        }
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self._values, indent=1), encoding="utf-8")
        partial.rename(self._path)

    def _count(self, tokens: float, elapsed: float) -> None:
        if self._first is None:
            self._first = (tokens, elapsed)
        elif elapsed > self._first[1]:
            speed = (tokens - self._first[0]) / (elapsed - self._first[1])
            self._values["tokens_per_second"] = round(speed, 1)
