"""Pre-training: packed token windows in, a checkpoint in Hugging Face's format out.

From random weights, or from a checkpoint (transfer). The loop is transformers' Trainer with this
project's recipe (training/recipe.py).

A parent's weights are trained at the rates of new ones: a warm-up to the full rate and another
decay adapt best (Ibrahim et al., Simple and scalable strategies to continually pre-train large
language models, 2024). What the parent knew is kept by old text among the new.
"""

import math
from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any, cast

from rich.progress import Progress
from torch.utils.data import SequentialSampler
from transformers import PreTrainedModel, Trainer, TrainingArguments

from everloop.errors import DataError
from everloop.manifest import DatasetRef
from training.checkpoint import Checkpoint, read_checkpoint
from training.config import ModelConfig, PretrainConfig
from training.distributed import device_of, world_size
from training.models import add_dropout, build_model, learning_rates
from training.recipe import NextTokenLoss, RecipeMixin, trainer_arguments
from training.rnn import RnnConfig
from training.run_folder import RunFolder
from training.runner import Job, Metrics, carry_out, deciding, limit_tokens
from training.schedule import Budget
from training.shards import TokenShard
from training.tokens import TokenizerFolder
from training.transfer import load_for_vocabulary
from training.windows import TrainingWindows, ValidationWindows


def pretrain(
    shards: Path,
    tokenizer: Path,
    run: Path,
    model: ModelConfig,
    config: PretrainConfig,
    *,
    parent: Path | None = None,
    datasets: Sequence[DatasetRef] = (),
    progress: Progress | None = None,
) -> Checkpoint:
    """Train a model on token shards.

    Args:
        shards: folder of `training.shards`, made with this tokenizer.
        run: the run's folder; an unfinished run of the same settings is continued.
        model: size of a new model; of a parent's, only the context length counts.
        parent: checkpoint folder to start from instead of random weights.
        datasets: for the lineage; the parent's come before them.
        progress: where to show a bar.

    Raises:
        DataError: the shards belong to another tokenizer, or are shorter than one window.
        ArtifactError: the parent was changed, or is no causal language model.
        ConfigError: another process trains in the folder, it belongs to other settings, or the
            context is longer than the parent's.
        EverloopError: the loss diverged before a state was saved, or a state cannot be saved.
    """
    folder = TokenizerFolder.read(tokenizer)
    tokens = {
        split: _open_shard(shards, split, folder, model.context_length)
        for split in ("train", "validation")
    }
    start = None if parent is None else read_checkpoint(parent)

    def make_trainer(opened: RunFolder, budget: Budget) -> PretrainTrainer:
        if parent is None:
            network = build_model(model, folder.vocab_size, folder.special, config.seed)
        else:
            network = load_for_vocabulary(parent, folder, model.context_length, device_of(config))
        add_dropout(network, config.dropout)
        trainer = _trainer(network, tokens, opened, model, config, budget)
        trainer.keeps_start = parent is not None
        return trainer

    def add_metrics(metrics: Metrics) -> Metrics:
        val_bpb = metrics["val_loss"] / math.log(2) / tokens["validation"].bytes_per_token
        return {**metrics, "val_bpb": val_bpb}

    before = () if start is None else start.record.datasets
    job = Job(
        title="pre-train",
        settings=_settings(model, config, tokens["train"], start),
        config=config,
        make_trainer=make_trainer,
        add_metrics=add_metrics,
        tokenizer=folder.path,
        datasets=(*before, *datasets),
    )
    return carry_out(job, run, progress)


class PretrainTrainer(NextTokenLoss, RecipeMixin, Trainer):
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
    rows_per_step = config.device_batch_size * config.grad_accum_steps * world_size()
    tokens_per_step = rows_per_step * model.context_length
    limit_tokens(budget, config, tokens_per_step)
    is_recurrent = isinstance(network.config, RnnConfig)
    keeps_apart = not is_recurrent if config.mask_documents is None else config.mask_documents
    separator = network.config.bos_token_id if keeps_apart else None
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
            separator=separator,
        ),
        eval_dataset=ValidationWindows(
            tokens["validation"].windows(model.context_length), config.eval_windows, separator
        ),
    )
    rates = learning_rates(network.config.hidden_size, config)
    trainer.equip(config, rates, budget, tokens_per_step)
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


def _settings(
    model: ModelConfig, config: PretrainConfig, shard: TokenShard, parent: Checkpoint | None
) -> dict[str, str]:
    """Everything that decides the weights, as text."""
    return {
        "kind": "pretrain",
        "shards": shard.dataset_id,
        "tokenizer": shard.tokenizer_sha256,
        **({} if parent is None else {"parent_sha256": parent.sha256}),
        **{f"model.{key}": str(value) for key, value in model.model_dump().items()},
        **deciding("pretrain", config),
    }
