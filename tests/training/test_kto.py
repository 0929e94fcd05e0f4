from pathlib import Path

import pytest

from everloop.errors import DataError
from tests.training.preferences import rated
from training.config import KtoConfig
from training.kto import MismatchingCollator, undesirable_weight
from training.preference_rows import RatedRow
from training.tune import fine_tune


def _config(**values: object) -> KtoConfig:
    values = {
        "max_steps": 8,
        "device_batch_size": 4,
        "grad_accum_steps": 1,
        "eval_every": 4,
        "log_every": 4,
        "warmup_steps": 2,
        "num_threads": 1,
        "adamw_learning_rate": 0.01,
        **values,
    }
    return KtoConfig.model_validate(values)


def test_undesirable_weight_evens_out_the_numbers() -> None:
    rows = [RatedRow([1], [2], label) for label in (True, True, True, False)]
    assert undesirable_weight(rows, _config()) == 3.0
    assert undesirable_weight(rows, _config(desirable_weight=0.5)) == 1.5
    assert undesirable_weight(rows, _config(undesirable_weight=0.7)) == 0.7


def test_undesirable_weight_refuses_one_sided_ratings() -> None:
    with pytest.raises(DataError, match=r"have 1 and 0\. Collect the missing kind"):
        undesirable_weight([RatedRow([1], [2], True)], _config())


def test_collator_gives_each_prompt_its_neighbours_answer() -> None:
    rows = [
        {"prompt_ids": [1], "completion_ids": [10, 11], "label": True},
        {"prompt_ids": [2], "completion_ids": [20], "label": False},
        {"prompt_ids": [3], "completion_ids": [30], "label": True},
    ]
    batch = MismatchingCollator(0)(rows)
    assert batch["input_ids"].tolist() == [[1, 10, 11], [2, 20, 0], [3, 30, 0]]
    assert batch["KL_input_ids"].tolist() == [[1, 30, 0], [2, 10, 11], [3, 20, 0]]
    assert batch["label"].tolist() == [True, False, True]


@pytest.mark.slow
def test_kto_prefers_what_people_approved(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = fine_tune(
        tiny_checkpoint, rated("train", 12), rated("validation", 6), tmp_path / "run", _config()
    )
    assert checkpoint.metrics["val_loss"] < 0.45  # 0.5 is no preference
    assert checkpoint.metrics["rows"] == 12


@pytest.mark.slow
def test_kto_with_lora_prefers_what_people_approved(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = _config(max_steps=24, eval_every=12, lora_rank=4)
    checkpoint = fine_tune(
        tiny_checkpoint, rated("train", 24), rated("validation", 9), tmp_path / "run", config
    )
    assert checkpoint.metrics["val_loss"] < 0.48
    assert not (checkpoint.path / "adapter_model.safetensors").exists()


@pytest.mark.slow
def test_kto_tunes_a_recurrent_network(tiny_recurrent_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = fine_tune(
        tiny_recurrent_checkpoint,
        rated("train", 12),
        rated("validation", 6),
        tmp_path / "run",
        _config(),
    )
    assert checkpoint.metrics["val_loss"] < 0.5
