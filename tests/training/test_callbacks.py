import json
from pathlib import Path

import pytest
from rich.progress import Progress
from transformers import TrainerControl, TrainerState, TrainingArguments

from training.callbacks import BudgetCallback, HistoryCallback, ProgressCallback
from training.schedule import Budget


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def args(tmp_path: Path) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path / "trainer"), use_cpu=True)


def _step(
    callback: BudgetCallback, args: TrainingArguments, clock: Clock, now: float
) -> TrainerControl:
    control, state = TrainerControl(), TrainerState(global_step=1)
    callback.on_step_begin(args, state, control)
    clock.now = now
    callback.on_step_end(args, state, control)
    return control


def test_budget_leaves_time_for_the_last_validation(args: TrainingArguments) -> None:
    clock = Clock()
    callback = BudgetCallback(Budget(max_steps=None, seconds=30, clock=clock))
    callback.on_evaluate(args, TrainerState(), TrainerControl(), metrics={"eval_runtime": 4.0})
    # A step of 2 s, a validation of 4 s and a save of 1 s must still fit into 30 s.
    assert not _step(callback, args, clock, 2.0).should_training_stop
    clock.now = 20.9
    assert not _step(callback, args, clock, 22.9).should_training_stop
    clock.now = 23.0
    control = _step(callback, args, clock, 25.0)
    assert control.should_training_stop
    assert control.should_evaluate
    assert control.should_save


def test_budget_of_a_resumed_run_continues(args: TrainingArguments) -> None:
    clock = Clock()
    budget = Budget(max_steps=None, seconds=30, clock=clock)
    history = [{"step": 5, "seconds": 12.0, "eval_runtime": 3.0}, {"step": 9, "seconds": 20.0}]
    state = TrainerState(log_history=history)
    BudgetCallback(budget).on_train_begin(args, state, TrainerControl())
    clock.now = 1.0
    assert budget.elapsed == 21.0
    assert budget.reserve_seconds == 4.0


def test_history_keeps_losses_only(args: TrainingArguments, tmp_path: Path) -> None:
    callback = HistoryCallback(tmp_path / "history.jsonl")
    state = TrainerState(global_step=7)
    callback.on_train_begin(args, state, TrainerControl())
    for logs in ({"loss": 3.5, "learning_rate": 0.1, "tokens": 70, "seconds": 2.0},
                 {"eval_loss": 3.25, "eval_runtime": 1.0, "tokens": 70, "seconds": 3.0},
                 {"train_runtime": 9.0}):  # fmt: skip
        callback.on_log(args, state, TrainerControl(), logs=logs)
    lines = (tmp_path / "history.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 7, "tokens": 70, "seconds": 2.0, "train_loss": 3.5},
        {"step": 7, "tokens": 70, "seconds": 3.0, "val_loss": 3.25},
    ]


def test_history_of_a_resumed_run_forgets_what_was_lost(
    args: TrainingArguments, tmp_path: Path
) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 4}\n{"step": 6}\n', encoding="utf-8")
    state = TrainerState(log_history=[{"step": 4, "loss": 2.0, "tokens": 8, "seconds": 1.0}])
    HistoryCallback(path).on_train_begin(args, state, TrainerControl())
    (line,) = path.read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {"step": 4, "tokens": 8, "seconds": 1.0, "train_loss": 2.0}


def test_progress_shows_the_part_of_the_budget(args: TrainingArguments) -> None:
    progress = Progress(disable=True)
    callback = ProgressCallback(progress, "pre-train", Budget(max_steps=8, seconds=None))
    state = TrainerState(global_step=2)
    callback.on_log(args, state, TrainerControl(), logs={"loss": 3.21, "tokens": 0})
    callback.on_step_end(args, state, TrainerControl())
    (task,) = progress.tasks
    assert task.completed == 250
    assert task.description == "pre-train · step 2 · loss 3.210"
