"""What happens beside the steps of a trainer: budget, history of losses, progress bar."""
# ruff: noqa: ARG002 - the Trainer calls every hook with all of its arguments

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.progress import Progress
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.distributed import mean_over_processes
from training.schedule import Budget

_HISTORY = {
    "loss": "train_loss",
    "eval_loss": "val_loss",
    "eval_rewards/accuracies": "val_accuracy",
}
# A save writes little; this covers it and the writing of the result.
SAVE_SECONDS = 1.0


class BudgetCallback(TrainerCallback):
    """Ends a run in time: the last validation and save still fit into the budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._step_start = 0.0
        self._step_seconds = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over what earlier sessions of this run have spent."""
        for entry in state.log_history:
            self._budget.spent_before = entry.get("seconds", self._budget.spent_before)
            self._keep_back(entry.get("eval_runtime", 0.0))

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep back the time that the last validation will need, in all processes the same."""
        self._keep_back(mean_over_processes(kwargs["metrics"].get("eval_runtime", 0.0)))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock of a step."""
        self._budget.tick()
        self._step_start = self._budget.clock()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop when the next step would overrun; validate and save what there is."""
        self._budget.tick()
        self._step_seconds = max(0.5 * self._step_seconds, self._budget.clock() - self._step_start)
        if self._budget.is_spent(state.global_step, self._step_seconds):
            control.should_training_stop = True
            control.should_evaluate = True
            control.should_save = True

    def _keep_back(self, validation_seconds: float) -> None:
        needed = validation_seconds + SAVE_SECONDS
        self._budget.reserve_seconds = max(self._budget.reserve_seconds, needed)


class HistoryCallback(TrainerCallback):
    """Writes each logged loss as one line: step, tokens, seconds and train_loss or val_loss.

    DPO's validations also say in which share of the pairs the approved answer wins.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the file; after an interruption, with the lines up to the saved state."""
        lines = [_history_line(entry, int(entry["step"])) for entry in state.log_history]
        self._path.write_text("".join(lines), encoding="utf-8")

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Append a line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_history_line(kwargs["logs"], state.global_step))


class ProgressCallback(TrainerCallback):
    """Shows one bar with loss and speed; its length is the budget, in thousandths."""

    def __init__(self, progress: Progress, title: str, budget: Budget) -> None:
        self._progress = progress
        self._title = title
        self._budget = budget
        self._task = progress.add_task(title, total=1000)
        self._losses: dict[str, float] = {}
        self._speed = _Speed()
        self._batches = {"learnt": 0, "validated": 0}  # of the step, of the validation

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over the newest losses and tokens."""
        logs: Mapping[str, float] = kwargs["logs"]
        for key, name in (("loss", "loss"), ("eval_loss", "val")):
            if key in logs:
                self._losses[name] = logs[key]
        self._speed.add(logs.get("tokens", 0.0), time.monotonic())

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the bar."""
        self._batches["learnt"] = 0
        self._show(state.global_step)

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show a batch of a step that has several: on large models one takes minutes."""
        self._batches["learnt"] += 1
        count = self._batches["learnt"]
        self._show(state.global_step, f"batch {count} of {args.gradient_accumulation_steps}")

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show a batch of a validation."""
        self._batches["validated"] += 1
        self._show(state.global_step, f"validation, batch {self._batches['validated']}")

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The next validation begins at its first batch."""
        self._batches["validated"] = 0

    def _show(self, step: int, *notes: str) -> None:
        parts = [f"{name} {value:.3f}" for name, value in self._losses.items()]
        if self._speed.tokens_per_second:
            parts.append(f"{self._speed.tokens_per_second / 1000:.1f}k tokens/s")
        self._progress.update(
            self._task,
            completed=1000 * self._budget.fraction(step),
            description=" · ".join([self._title, f"step {step}", *notes, *parts]),
        )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Fill the bar."""
        self._progress.update(self._task, completed=1000)


class _Speed:
    """Tokens per second between two log entries."""

    def __init__(self) -> None:
        self.tokens_per_second = 0.0
        self._tokens = 0.0
        self._time = time.monotonic()

    def add(self, tokens: float, now: float) -> None:
        if tokens > self._tokens and now > self._time:
            self.tokens_per_second = (tokens - self._tokens) / (now - self._time)
        self._tokens, self._time = tokens, now


def _history_line(entry: Mapping[str, float], step: int) -> str:
    losses = {name: entry[key] for key, name in _HISTORY.items() if key in entry}
    if not losses:
        return ""
    line = {"step": step, "tokens": entry.get("tokens"), "seconds": entry.get("seconds"), **losses}
    return json.dumps(line) + "\n"
