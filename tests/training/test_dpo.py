import json
from pathlib import Path
from typing import Any

import pytest
import torch
from trl.trainer.dpo_trainer import DPOTrainer

from everloop.errors import DataError
from everloop.manifest import DatasetRef
from tests.training.preferences import pairs, rated
from training.config import DpoConfig
from training.dpo import DpoRunTrainer
from training.tune import fine_tune


def _config(**values: object) -> DpoConfig:
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
    return DpoConfig.model_validate(values)


def test_dpo_prefers_what_people_approved(tiny_checkpoint: Path, tmp_path: Path) -> None:
    uses = [DatasetRef(id="ds-1", merkle_root="0", rows=18, use=use) for use in ("sft", "replay")]
    checkpoint = fine_tune(
        tiny_checkpoint, pairs("train", 12), pairs("validation", 6), tmp_path / "run", _config(),
        datasets=uses,
    )  # fmt: skip
    assert checkpoint.metrics["val_loss"] < 0.4  # ln 2 is no preference
    assert [one.use for one in checkpoint.record.datasets] == ["pretrain", "dpo", "replay"]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [None, 2], ids=["all", "lora"])
def test_the_reference_judges_each_pair_once_and_in_the_same_way(
    rank: int | None, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[int] = []
    judge = DPOTrainer.compute_ref_log_probs

    def spy(self: Any, model: Any, inputs: dict[str, torch.Tensor]) -> Any:
        judged.append(len(inputs["input_ids"]) // 2)
        return judge(self, model, inputs)

    def tune(name: str) -> float:
        config = _config(max_steps=6, eval_every=3, lora_rank=rank)
        rows = pairs("train", 8), pairs("validation", 4)
        return fine_tune(tiny_checkpoint, *rows, tmp_path / name, config).metrics["val_loss"]

    monkeypatch.setattr(DPOTrainer, "compute_ref_log_probs", spy)
    once = tune("once")
    assert judged == [4, 4, 4]  # three passes over 8 pairs, three validations of 4
    monkeypatch.setattr(DpoRunTrainer, "_compute_loss", DPOTrainer._compute_loss)
    assert once == pytest.approx(tune("always"), abs=1e-4)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_the_same_reference(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tune(name: str) -> str:
        rows = pairs("train", 10), pairs("validation", 2)
        return fine_tune(tiny_checkpoint, *rows, tmp_path / name, _config()).sha256

    def interrupted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 6:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    step = DpoRunTrainer.training_step
    with monkeypatch.context() as patch:
        patch.setattr(DpoRunTrainer, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tune("run")
    assert (tmp_path / "run" / "trainer" / "reference_scores.json").is_file()
    assert tune("run") == tune("whole")


@pytest.mark.slow
def test_dpo_tunes_a_recurrent_network(tiny_recurrent_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = fine_tune(
        tiny_recurrent_checkpoint, pairs("train", 12), pairs("validation", 6), tmp_path / "run",
        _config(),
    )  # fmt: skip
    assert checkpoint.metrics["val_loss"] < 0.6


def test_dpo_refuses_rows_without_pairs(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 rows, dropped: 3 kind rated"):
        fine_tune(
            tiny_checkpoint, rated("train", 3), pairs("validation", 2), tmp_path / "r", _config()
        )


@pytest.mark.slow
def test_validation_takes_no_more_rows_than_the_time_allows(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated: list[int] = []

    class Watching(DpoRunTrainer):
        def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> Any:
            validated.append(len(dataloader.dataset))
            return super().evaluation_loop(dataloader, *args, **kwargs)

    monkeypatch.setattr("training.dpo.DpoRunTrainer", Watching)
    # A batch at most fits into a share of so little; the run ends after a step.
    config = _config(max_steps=None, minutes=1e-4, device_batch_size=2)
    checkpoint = fine_tune(
        tiny_checkpoint, pairs("train", 12), pairs("validation", 20), tmp_path / "run", config
    )
    assert checkpoint.metrics["steps"] == 1
    assert validated == [2, 2]
    assert json.loads((tmp_path / "run" / "validation.json").read_text()) == {"rows": 2}
    # Without a budget of time all of them are read.
    validated.clear()
    fine_tune(
        tiny_checkpoint, pairs("train", 4), pairs("validation", 20), tmp_path / "other",
        _config(max_steps=1),
    )  # fmt: skip
    assert set(validated) == {20}
