"""Processor time and energy over a run that was interrupted."""

import json
from pathlib import Path

import pytest
from transformers import TrainerCallback

from tests.training.watching import watching
from training import consumption
from training.config import ModelConfig, PretrainConfig
from training.energy import ReadJoules
from training.pretrain import pretrain

MODEL = ModelConfig(size="1m", context_length=32)
CONFIG = PretrainConfig(
    max_steps=4, device_batch_size=2, eval_every=2, eval_windows=2, warmup_steps=1, num_threads=1
)


class Interrupt(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KeyboardInterrupt


def _growing() -> list[ReadJoules]:
    """A counter that begins anew at each start and grows by one with each reading."""
    values = iter(range(1000))
    return [lambda: float(next(values))]


@pytest.mark.slow
def test_counts_go_on_after_an_interruption(
    tiny_shards: Path, tiny_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumption, "processor_counters", _growing)
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), watching(Interrupt()):
        pretrain(tiny_shards, tiny_tokenizer, run, MODEL, CONFIG)
    state = json.loads((run / "trainer/checkpoint-2/trainer_state.json").read_text("utf-8"))
    before = state["log_history"][-1]
    assert before["energy_joules"] > 0
    metrics = pretrain(tiny_shards, tiny_tokenizer, run, MODEL, CONFIG).metrics
    assert metrics["energy_joules"] > before["energy_joules"]
    assert metrics["cpu_seconds"] > before["cpu_seconds"] > 0
    assert "gpu_joules" not in metrics
