"""Supervised fine-tuning of a checkpoint by TRL: conversations, and texts that keep old knowledge.

Which tokens are learnt is decided in training/sft_rows.py; TRL gets rows that are encoded already.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets import Dataset
from rich.progress import Progress
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
)
from trl.trainer.sft_config import SFTConfig as TrlConfig
from trl.trainer.sft_trainer import SFTTrainer

from everloop.manifest import DatasetRef
from everloop.records import DatasetRow, merkle_root
from training.checkpoint import Checkpoint, read_checkpoint, write_sidecar
from training.config import SftConfig
from training.cpu import training_session
from training.models import learning_rates
from training.recipe import RecipeMixin, prepare, train, trainer_arguments
from training.run_folder import RunFolder, open_run
from training.schedule import Budget
from training.sft_rows import EncodedRows, encode_rows
from training.tokens import TokenizerFolder

# Fine-tuning moves the weights less than pre-training does.
LEARNING_RATE_RATIO = 0.3


def fine_tune(
    parent: Path,
    rows: Sequence[DatasetRow],
    validation: Sequence[DatasetRow],
    run: Path,
    config: SftConfig,
    *,
    datasets: Sequence[DatasetRef] = (),
    parent_tag: str | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """Tune a checkpoint on rows; the weights of the best validation are kept.

    Args:
        parent: checkpoint folder to start from; it is not changed.
        rows: training rows, conversations and texts in any mixture.
        validation: rows of the validation split.
        run: the run's folder; an unfinished run of the same settings is continued.
        datasets: what these rows come from, added to the parent's lineage.
        parent_tag: tag of the model version that the parent was exported to.
        progress: where to show a bar.

    Raises:
        ArtifactError: the parent was changed, or is no checkpoint.
        DataError: a row of another split, or nothing to learn from.
        ConfigError: another process trains in the folder, or it belongs to other settings.
        EverloopError: the loss became infinite or no number.
    """
    budget = Budget(config.max_steps, None if config.minutes is None else config.minutes * 60)
    checkpoint = read_checkpoint(parent)
    settings = _settings(checkpoint, rows, validation, config)
    with open_run(run, settings) as opened, training_session(config.num_threads):
        if opened.finished is not None:
            return opened.finished
        network = AutoModelForCausalLM.from_pretrained(
            parent, local_files_only=True, dtype="float32", attn_implementation="eager"
        )
        tokenizer = AutoTokenizer.from_pretrained(parent, local_files_only=True)
        length = network.config.max_position_embeddings
        learnt = encode_rows(rows, tokenizer, length, split="train", seed=config.seed)
        held = encode_rows(
            validation[: config.eval_rows], tokenizer, length, split="validation", seed=config.seed
        )
        if config.epochs is not None:
            rows_per_step = config.device_batch_size * config.grad_accum_steps
            budget.max_steps = math.ceil(config.epochs * len(learnt.rows) / rows_per_step)
        trainer = _trainer(network, tokenizer, (learnt, held), opened, config, budget)
        prepare(trainer, opened, "fine-tune", progress)
        metrics = {**train(trainer, opened), **_counts(learnt)}

        def write(partial: Path) -> None:
            network.save_pretrained(partial)
            TokenizerFolder.read(parent).copy_to(partial)
            write_sidecar(
                partial,
                datasets=[*checkpoint.record.datasets, *datasets],
                config=settings,
                seed=config.seed,
                parent=parent_tag,
                metrics=metrics,
            )

        return opened.finish(write)


class SftRunTrainer(RecipeMixin, SFTTrainer):
    """TRL's trainer with this project's recipe.

    TRL's own loss projects onto the vocabulary in tiles, which saves memory on GPUs; on a CPU its
    backward pass takes several times as long as the whole head (330 ms instead of 90 ms for 4,096
    tokens), so the model's loss is used.
    """

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The model's own loss over the labels that are not IGNORED."""
        return Trainer.compute_loss(self, model, inputs, *args, **kwargs)


def _trainer(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    splits: tuple[EncodedRows, EncodedRows],
    run: RunFolder,
    config: SftConfig,
    budget: Budget,
) -> SftRunTrainer:
    learnt, held = splits
    trainer = SftRunTrainer(
        model=network,
        args=TrlConfig(
            **trainer_arguments(config, run, budget),
            activation_checkpointing=False,
            max_length=None,
            packing=False,
            # The rows carry their labels; TRL shall not build others.
            dataset_kwargs={"skip_prepare_dataset": True},
            train_sampling_strategy="group_by_length",
            length_column_name="length",
        ),
        train_dataset=_dataset(learnt),
        eval_dataset=_dataset(held),
        processing_class=tokenizer,
    )
    muon, adamw = learning_rates(network.config.hidden_size, config)
    trainer.recipe = config
    trainer.rates = (
        config.muon_learning_rate or muon * LEARNING_RATE_RATIO,
        config.adamw_learning_rate or adamw * LEARNING_RATE_RATIO,
    )
    trainer.budget = budget
    mean_length = sum(len(row.input_ids) for row in learnt.rows) / len(learnt.rows)
    trainer.tokens_per_step = mean_length * config.device_batch_size * config.grad_accum_steps
    return trainer


def _dataset(encoded: EncodedRows) -> Dataset:
    return Dataset.from_list(
        [{**asdict(row), "length": len(row.input_ids)} for row in encoded.rows]
    )


def _counts(encoded: EncodedRows) -> dict[str, float]:
    return {
        "rows": float(len(encoded.rows)),
        "truncated_rows": float(encoded.truncated),
        "dropped_rows": float(sum(encoded.dropped.values())),
    }


def _settings(
    parent: Checkpoint,
    rows: Sequence[DatasetRow],
    validation: Sequence[DatasetRow],
    config: SftConfig,
) -> dict[str, str]:
    """Everything that decides the weights, as text."""
    return {
        "kind": "sft",
        "parent_sha256": parent.sha256,
        "rows": merkle_root([row.id for row in rows]),
        "validation": merkle_root([row.id for row in validation]),
        **{f"sft.{key}": str(value) for key, value in config.model_dump().items()},
    }
