import json
from pathlib import Path

from transformers import TrainerControl, TrainerState, TrainingArguments

from training.schedule import Budget
from training.status import StatusCallback


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_status_tells_speed_and_time_left(tmp_path: Path) -> None:
    clock = Clock()
    budget = Budget(max_steps=None, seconds=60, clock=clock)
    path = tmp_path / "run" / "status.json"
    path.parent.mkdir()
    callback = StatusCallback(path, "pre-train", budget)
    args = TrainingArguments(output_dir=str(tmp_path / "trainer"), use_cpu=True)
    state, control = TrainerState(global_step=4), TrainerControl()
    callback.on_train_begin(args, state, control)
    for now, logs in (
        (5.0, {"loss": 3.0, "tokens": 100.0}),
        (15.0, {"eval_loss": 2.5, "tokens": 600.0}),
    ):
        clock.now = now
        callback.on_log(args, state, control, logs=logs)
    status = json.loads(path.read_text(encoding="utf-8"))
    assert status["status"] == "running"
    assert (status["train_loss"], status["val_loss"], status["tokens"]) == (3.0, 2.5, 600.0)
    assert status["tokens_per_second"] == 50.0
    assert (status["fraction"], status["seconds"], status["seconds_left"]) == (0.25, 15.0, 45.0)
    callback.on_train_end(args, state, control)
    assert json.loads(path.read_text(encoding="utf-8"))["status"] == "finished"
    assert path.parent.name == status["run"]
