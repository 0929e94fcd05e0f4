"""Kinds of network, optimizers, schedules and regularisers, each through a real run."""

from pathlib import Path

import pytest
import torch
from transformers import Trainer

from training.checkpoint import Checkpoint
from training.config import ModelConfig, PretrainConfig
from training.models import add_dropout, build_model, shape_of
from training.pretrain import PretrainTrainer, pretrain
from training.tokens import SpecialTokenIds

SLOW = pytest.mark.slow
SPECIAL = SpecialTokenIds(bos=0, pad=0, eos=(0, 2))


def _train(shards: Path, tokenizer: Path, run: Path, kind: str, **values: object) -> Checkpoint:
    settings = {
        "max_steps": 8, "device_batch_size": 4, "eval_every": 8, "log_every": 4,
        "eval_windows": 4, "warmup_steps": 2, "num_threads": 1, **values,
    }  # fmt: skip
    model = ModelConfig.model_validate({"kind": kind, "size": "1m", "context_length": 32})
    return pretrain(shards, tokenizer, run, model, PretrainConfig.model_validate(settings))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("lstm", {}),
        pytest.param("gru", {"optimizer": "adamw", "adamw_learning_rate": 0.01}, marks=SLOW),
        pytest.param("transformer", {"optimizer": "adamw", "schedule": "linear"}, marks=SLOW),
        pytest.param("transformer", {"optimizer": "sgd", "schedule": "wsd"}, marks=SLOW),
        ("transformer", {"dropout": 0.1, "label_smoothing": 0.1}),
    ],
)
def test_every_variant_learns(
    tiny_shards: Path, tiny_tokenizer: Path, tmp_path: Path, kind: str, values: dict[str, object]
) -> None:
    checkpoint = _train(tiny_shards, tiny_tokenizer, tmp_path / "run", kind, **values)
    assert checkpoint.metrics["val_loss"] < 5.7  # 5.89 is a uniform guess over 362 tokens


def test_a_budget_of_tokens_is_rounded_up_to_steps(
    tiny_shards: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    checkpoint = _train(
        tiny_shards, tiny_tokenizer, tmp_path / "run", "lstm", max_steps=None, max_train_tokens=300
    )
    assert checkpoint.metrics["steps"] == 3  # 128 tokens each


def test_dropout_acts_in_training_alone() -> None:
    model = build_model(ModelConfig(size="1m"), 300, SPECIAL, 0)
    ids = torch.arange(3, 40)[None]
    plain = model.eval()(ids).logits
    add_dropout(model, 0.2)
    assert torch.equal(model.eval()(ids).logits, plain)
    assert not torch.equal(model.train()(ids).logits, plain)


def test_smoothed_loss_is_torchs_own_and_not_for_validation() -> None:
    model = build_model(ModelConfig(size="1m"), 300, SPECIAL, 0)
    trainer = PretrainTrainer.__new__(PretrainTrainer)
    trainer.model, trainer.recipe = model, PretrainConfig(label_smoothing=0.1)
    ids = torch.arange(3, 40)[None]
    inputs = {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "shift_labels": ids[:, 1:]}
    logits = model(ids[:, :-1]).logits[0]
    expected = torch.nn.functional.cross_entropy(logits, ids[0, 1:], label_smoothing=0.1)
    model.train()
    torch.testing.assert_close(trainer.compute_loss(model, inputs), expected)
    unshifted = {"input_ids": ids, "labels": ids}
    torch.testing.assert_close(trainer.compute_loss(model, unshifted), expected)
    assert Trainer.compute_loss is not PretrainTrainer.compute_loss


def test_kinds_of_one_size_have_like_many_parameters() -> None:
    for size in ("1m", "3m", "10m", "30m", "100m", "350m", "1b"):
        sizes = [shape_of(kind, size).layer_parameters for kind in ("transformer", "lstm", "gru")]
        assert max(sizes) / min(sizes) < 1.06
        assert all(shape_of(kind, size).n_embd % 32 == 0 for kind in ("lstm", "gru"))


def test_large_sizes_are_what_they_are_called() -> None:
    assert shape_of("transformer", "350m").layer_parameters == 346_816_512
    assert shape_of("transformer", "1b").layer_parameters == 1_011_875_840


def test_a_rate_of_an_optimizer_that_is_not_used_is_refused() -> None:
    with pytest.raises(ValueError, match="sgd_learning_rate is set, but the optimizer is muon"):
        PretrainConfig(sgd_learning_rate=0.1)
