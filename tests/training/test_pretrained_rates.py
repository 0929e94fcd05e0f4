"""Weights from elsewhere get defaults of their own; what is set, and what was made here, stays."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_model import make_tiny_checkpoint
from tests.training.test_sft import _rows
from training.checkpoint import read_checkpoint
from training.config import SftConfig
from training.pretrained import load_network
from training.pretrained_rates import (
    FULL_RATE,
    LORA_RATE,
    is_pretrained,
    suited_to_pretrained,
)
from training.sft import SftRunTrainer
from training.tune import fine_tune


def test_what_was_pretrained_here_is_not_from_elsewhere(
    tiny_checkpoint: Path, tiny_recurrent_checkpoint: Path, tmp_path: Path
) -> None:
    foreign = make_tiny_checkpoint(tmp_path, family="llama")
    found = [
        is_pretrained(read_checkpoint(folder), load_network(folder))
        for folder in (tiny_checkpoint, tiny_recurrent_checkpoint, foreign)
    ]
    assert found == [False, False, True]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("adamw", FULL_RATE, 4)),
        ({"lora_rank": 8}, ("adamw", LORA_RATE, 4)),
        ({"optimizer": "adamw", "adamw_learning_rate": 0.5}, ("adamw", 0.5, 4)),
        ({"muon_learning_rate": 0.5, "warmup_steps": 20}, ("muon", None, 20)),
        ({"optimizer": "sgd"}, ("sgd", None, 4)),
    ],
)
def test_what_is_set_stays(given: dict[str, Any], expected: tuple[object, ...]) -> None:
    config = suited_to_pretrained(SftConfig(max_steps=40, **given), 0.1, 40)
    found = (config.optimizer_name, config.adamw_learning_rate, config.warmup_steps)
    assert found == expected


def test_a_run_by_the_clock_keeps_its_warm_up_and_preferences_take_smaller_steps() -> None:
    config = suited_to_pretrained(SftConfig(minutes=1.0, lora_rank=8), 0.02, None)
    assert config.warmup_steps == 20
    assert config.adamw_learning_rate == pytest.approx(LORA_RATE / 5)


def test_fine_tune_takes_these_rates_for_a_foreign_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = make_tiny_checkpoint(tmp_path / "model", family="llama")
    rates: list[float] = []

    def spy(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        rates.append(self.optimizer.param_groups[0]["lr"])
        return training_step(self, *args, **kwargs)

    training_step = SftRunTrainer.training_step
    monkeypatch.setattr(SftRunTrainer, "training_step", spy)
    config = SftConfig(
        max_steps=20, device_batch_size=1, grad_accum_steps=1, lora_rank=2, num_threads=1
    )
    fine_tune(foreign, _rows("train", 20), _rows("validation", 1), tmp_path / "run", config)
    assert rates[0] == pytest.approx(LORA_RATE / 2)  # two steps of warm-up
    assert max(rates) == pytest.approx(LORA_RATE, rel=0.02)
