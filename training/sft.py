"""Supervised fine-tuning of a checkpoint by TRL: conversations, and texts that keep old knowledge.

Which tokens are learnt is decided in training/sft_rows.py; TRL gets rows that are encoded already.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from rich.progress import Progress
from torch.utils.data import Sampler
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.trainer_pt_utils import get_length_grouped_indices
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

# Fine-tuning moves the weights less than pre-training does. On the embedded corpus a tenth gave
# better answers to unseen questions, and half the forgetting, than a fifth.
LEARNING_RATE_RATIO = 0.1


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
        encode = partial(encode_rows, tokenizer=tokenizer, context_length=length, seed=config.seed)
        learnt = encode(rows, split="train")
        held = encode(validation[: config.eval_rows], split="validation")
        _limit_epochs(budget, config, len(learnt.rows))
        trainer = _trainer(network, tokenizer, (learnt, held), opened, config, budget)
        prepare(trainer, opened, "fine-tune", progress)
        metrics = {**train(trainer, opened), **_counts(learnt)}

        def write(folder: Path) -> None:
            network.save_pretrained(folder)
            TokenizerFolder.read(parent).copy_to(folder)
            write_sidecar(
                folder,
                datasets=[*checkpoint.record.datasets, *datasets],
                config=settings,
                seed=config.seed,
                parent=parent_tag,
                metrics=metrics,
            )

        return opened.finish(write)


def _limit_epochs(budget: Budget, config: SftConfig, rows: int) -> None:
    """Turn passes over the rows into steps, now that the rows are counted."""
    if config.epochs is None:
        return
    rows_per_step = config.device_batch_size * config.grad_accum_steps
    steps = math.ceil(config.epochs * rows / rows_per_step)
    budget.max_steps = min(steps, config.max_steps or steps)


class SftRunTrainer(RecipeMixin, SFTTrainer):
    """TRL's trainer with this project's recipe."""

    row_order: "RowOrder"

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: a saved state is no model to publish."""

    def _get_train_sampler(
        self,
        train_dataset: Any = None,  # noqa: ARG002 - the order was made with the rows
    ) -> "RowOrder":
        return self.row_order


class RowOrder(Sampler[int]):
    """The rows of a whole run in order: shuffled per epoch, rows of like length side by side.

    The order depends on the seed alone, so that a stopped run resumes by its step number.
    """

    def __init__(
        self, lengths: Sequence[int], rows_per_step: int, *, length: int, seed: int
    ) -> None:
        self._lengths = list(lengths)
        self._rows_per_step = rows_per_step
        self._length = length
        self._seed = seed

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(
            itertools.chain.from_iterable(self._epoch(epoch) for epoch in itertools.count()),
            self._length,
        )

    def _epoch(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self._seed + epoch)
        grouped = get_length_grouped_indices(
            self._lengths, self._rows_per_step, generator=generator
        )
        # Grouping sorts from long to short; training shall not, so the full steps are shuffled.
        full = len(grouped) // self._rows_per_step
        steps = torch.tensor(grouped[: full * self._rows_per_step]).view(full, self._rows_per_step)
        order: list[int] = steps[torch.randperm(full, generator=generator)].flatten().tolist()
        return order + grouped[len(order) :]


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
            # Few different lengths, so that freed memory fits again: 1.2 GB instead of 1.7 GB.
            pad_to_multiple_of=32,
            # The rows carry their labels; TRL shall not build others.
            dataset_kwargs={"skip_prepare_dataset": True},
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
    lengths = [len(row.input_ids) for row in learnt.rows]
    rows_per_step = config.device_batch_size * config.grad_accum_steps
    trainer.tokens_per_step = sum(lengths) / len(lengths) * rows_per_step
    trainer.row_order = RowOrder(
        lengths, rows_per_step, length=budget.trainer_steps * rows_per_step, seed=config.seed
    )
    return trainer


def _dataset(encoded: EncodedRows) -> Dataset:
    return Dataset.from_list([asdict(row) for row in encoded.rows])


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
