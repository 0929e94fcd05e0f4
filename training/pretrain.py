"""Pre-training: packed token windows in, a checkpoint in Hugging Face's format out.

The loop is transformers' Trainer with this project's recipe (training/recipe.py). A run that was
interrupted continues from its last saved state, a finished one is returned as it is.
"""

import logging
from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any, cast

import numpy as np
from rich.progress import Progress
from torch.utils.data import SequentialSampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from everloop.errors import DataError
from everloop.manifest import DatasetRef
from training.checkpoint import Checkpoint, write_sidecar
from training.config import ModelConfig, PretrainConfig
from training.cpu import training_session
from training.models import SHAPES, build_model, learning_rates
from training.recipe import RecipeMixin, prepare, train, trainer_arguments
from training.run_folder import RunFolder, open_run
from training.schedule import Budget
from training.shards import SPLITS, TokenShard
from training.tokens import TokenizerFolder
from training.windows import TrainingWindows, ValidationWindows

logger = logging.getLogger(__name__)


def pretrain(
    shards: Path,
    tokenizer: Path,
    run: Path,
    model: ModelConfig,
    config: PretrainConfig,
    *,
    datasets: Sequence[DatasetRef] = (),
    progress: Progress | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Checkpoint:
    """Train a model from random weights on token shards.

    Args:
        shards: folder of `training.shards`, made with this tokenizer.
        run: the run's folder; an unfinished run of the same settings is continued.
        datasets: for the lineage.
        progress: where to show a bar.
        callbacks: further callbacks of the Trainer.

    Raises:
        DataError: the shards belong to another tokenizer, or are shorter than one window.
        ConfigError: another process trains in the folder, or it belongs to other settings.
        EverloopError: the loss became infinite or no number.
    """
    budget = Budget(config.max_steps, None if config.minutes is None else config.minutes * 60)
    folder = TokenizerFolder.read(tokenizer)
    tokens = {split: _open_shard(shards, split, folder, model.context_length) for split in SPLITS}
    settings = _settings(model, config, tokens["train"])
    with open_run(run, settings) as opened, training_session(config.num_threads):
        if opened.finished is not None:
            return opened.finished
        network = build_model(model, folder.vocab_size, folder.special, config.seed)
        trainer = _trainer(network, tokens, opened, model, config, budget)
        prepare(trainer, opened, "pre-train", progress)
        for callback in callbacks:
            trainer.add_callback(callback)
        metrics = train(trainer, opened)
        metrics["val_bpb"] = metrics["val_loss"] / np.log(2) / tokens["validation"].bytes_per_token

        def write(partial: Path) -> None:
            network.save_pretrained(partial)
            folder.copy_to(partial)
            write_sidecar(
                partial,
                datasets=datasets,
                config=settings,
                seed=config.seed,
                parent=None,
                metrics=metrics,
            )

        return opened.finish(write)


class PretrainTrainer(RecipeMixin, Trainer):
    """A Trainer that reads the windows in their own order."""

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(cast(Sized, train_dataset or self.train_dataset))


def _trainer(
    network: PreTrainedModel,
    tokens: dict[str, TokenShard],
    run: RunFolder,
    model: ModelConfig,
    config: PretrainConfig,
    budget: Budget,
) -> PretrainTrainer:
    rows_per_step = config.device_batch_size * config.grad_accum_steps
    trainer = PretrainTrainer(
        model=network,
        args=TrainingArguments(
            **trainer_arguments(config, run, budget), remove_unused_columns=False
        ),
        train_dataset=TrainingWindows(
            tokens["train"].tokens,
            model.context_length,
            length=budget.trainer_steps * rows_per_step,
            seed=config.seed,
        ),
        eval_dataset=ValidationWindows(
            tokens["validation"].windows(model.context_length), config.eval_windows
        ),
    )
    trainer.recipe = config
    trainer.rates = learning_rates(SHAPES[model.size].n_embd, config)
    trainer.budget = budget
    trainer.tokens_per_step = rows_per_step * model.context_length
    return trainer


def _open_shard(
    shards: Path, split: str, tokenizer: TokenizerFolder, context_length: int
) -> TokenShard:
    shard = TokenShard.open(shards, split)
    if shard.tokenizer_sha256 != tokenizer.sha256:
        raise DataError(
            f"{shards} was made with another tokenizer than {tokenizer.path}: expected SHA-256 "
            f"{tokenizer.sha256[:12]}, found {shard.tokenizer_sha256[:12]}. Write the shards again."
        )
    if len(shard.tokens) < context_length + 1:
        raise DataError(
            f"{shards}: the {split} split has {len(shard.tokens):,} tokens, one window needs "
            f"{context_length + 1:,}. Add documents or lower model.context_length."
        )
    largest = int(shard.tokens.max())
    if largest >= tokenizer.vocab_size:
        raise DataError(
            f"{shards}: the {split} split holds token {largest:,}, the vocabulary ends at "
            f"{tokenizer.vocab_size - 1:,}. Write the shards again."
        )
    return shard


def _settings(model: ModelConfig, config: PretrainConfig, shard: TokenShard) -> dict[str, str]:
    """Everything that decides the weights, as text."""
    return {
        "kind": "pretrain",
        "shards": shard.dataset_id,
        "tokenizer": shard.tokenizer_sha256,
        **{f"model.{key}": str(value) for key, value in model.model_dump().items()},
        **{f"pretrain.{key}": str(value) for key, value in config.model_dump().items()},
    }
