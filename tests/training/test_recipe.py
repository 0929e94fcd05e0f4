import logging
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.modules.module import _IncompatibleKeys
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from training.config import PretrainConfig
from training.models import LearningRates
from training.numerics import Numerics
from training.optimizer import MuonAdamW
from training.recipe import RecipeMixin
from training.run_folder import RunFolder
from training.schedule import Budget


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class RecipeTrainer(RecipeMixin, Trainer):
    pass


@pytest.fixture
def trainer(tiny_checkpoint: Path, tmp_path: Path) -> RecipeTrainer:
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, local_files_only=True)
    trainer = RecipeTrainer(model, TrainingArguments(output_dir=str(tmp_path), use_cpu=True))
    recipe = PretrainConfig(minutes=1.0, warmup_steps=0, final_learning_rate_ratio=0.1)
    rates = LearningRates(muon=0.02, adamw=0.003)
    trainer.equip(recipe, rates, Budget(max_steps=None, seconds=60), tokens_per_step=128)
    return trainer


def test_optimizer_has_one_group_per_algorithm(trainer: RecipeTrainer) -> None:
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, MuonAdamW)
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.003]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


def test_learning_rate_follows_the_clock(trainer: RecipeTrainer) -> None:
    clock = Clock()
    trainer.budget = Budget(max_steps=None, seconds=60, clock=clock)
    optimizer = trainer.create_optimizer()
    scheduler = trainer.create_scheduler(10)
    rates = []
    for now in (0.0, 30.0, 60.0):
        clock.now = now
        nn.Module.zero_grad(trainer.model)
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.02, 0.011, 0.002])


def test_log_adds_seconds_and_tokens(trainer: RecipeTrainer) -> None:
    clock = Clock()
    trainer.budget = Budget(max_steps=None, seconds=60, clock=clock)
    clock.now, trainer.state.global_step = 2.5, 3
    trainer.log({"loss": 1.0})
    assert trainer.state.log_history[-1] == {
        "loss": 1.0, "seconds": 2.5, "tokens": 384, "epoch": 0, "step": 3,
    }  # fmt: skip


def test_missing_tied_head_is_no_warning(
    trainer: RecipeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("transformers.trainer")
    logger.addHandler(caplog.handler)
    trainer._issue_warnings_after_load(_IncompatibleKeys(["lm_head.weight"], []))
    assert not caplog.records
    trainer._issue_warnings_after_load(_IncompatibleKeys(["model.norm.weight"], []))
    logger.removeHandler(caplog.handler)
    assert "model.norm.weight" in caplog.text


@pytest.mark.parametrize("products", ["fp32", "bf16"])
def test_loss_is_computed_in_the_format_of_the_run(trainer: RecipeTrainer, products: str) -> None:
    trainer.numerics = Numerics(products=products)
    with trainer.compute_loss_context_manager():
        assert torch.is_autocast_enabled("cpu") == (products == "bf16")


def test_run_folder_decides_about_the_first_validation(tmp_path: Path) -> None:
    from training.recipe import trainer_arguments

    config, run = PretrainConfig(max_steps=9), RunFolder(tmp_path)
    assert trainer_arguments(config, run, Budget(9, None))["eval_on_start"]
    state = run.trainer / "checkpoint-5" / "trainer_state.json"
    state.parent.mkdir(parents=True)
    state.write_text("{}", encoding="utf-8")
    assert not trainer_arguments(config, run, Budget(9, None))["eval_on_start"]
