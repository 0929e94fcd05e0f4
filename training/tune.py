"""Fine-tuning of a checkpoint, whatever the method: SFT, KTO or DPO, all weights or LoRA."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft import LoraConfig
from rich.progress import Progress
from transformers import PreTrainedModel

from everloop.errors import ConfigError
from everloop.manifest import DatasetRef
from everloop.records import DatasetRow, merkle_root
from training.checkpoint import Checkpoint, read_checkpoint
from training.config import DpoConfig, KtoConfig, SftConfig, TuneConfig
from training.distributed import device_of, world_size
from training.dpo import DPO
from training.kto import KTO
from training.method import Method, Parts, Rows
from training.models import add_dropout, learning_rates
from training.pretrained import load_chat_tokenizer, load_network
from training.pretrained_rates import is_pretrained, suited_to_pretrained
from training.recipe import trainer_arguments
from training.rnn import RnnConfig
from training.row_order import RowOrder
from training.run_folder import RunFolder
from training.runner import Job, Metrics, carry_out, deciding, limit_tokens
from training.schedule import Budget
from training.sft import SFT
from training.text_marks import check_template
from training.transfer import check_vocabulary

logger = logging.getLogger(__name__)

# LoRA's additions start at zero and are few: they take larger steps than whole matrices do.
LORA_RATIO = 5.0
METHODS = ("sft", "kto", "dpo")


def fine_tune(
    parent: Path,
    rows: Sequence[DatasetRow],
    validation: Sequence[DatasetRow],
    run: Path,
    config: TuneConfig,
    *,
    datasets: Sequence[DatasetRef] = (),
    parent_tag: str | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """Tune a checkpoint on rows; the weights of the best validation are kept.

    Args:
        parent: checkpoint folder to start from; it is not changed.
        rows: training rows; kinds that the method does not learn from are dropped and counted.
        validation: rows of the validation split.
        run: the run's folder; an unfinished run of the same settings is continued.
        config: its type names the method: SftConfig, KtoConfig or DpoConfig.
        datasets: what these rows come from, added to the parent's lineage.
        parent_tag: tag of the model version that the parent was exported to.
        progress: where to show a bar.

    Raises:
        ArtifactError: the parent was changed, or is no causal language model.
        DataError: a row of another split, or nothing to learn from.
        ConfigError: another process trains in the folder, it belongs to other settings, or the
            method cannot do what is asked for.
        EverloopError: the loss diverged before a state was saved, or a state cannot be saved.
    """
    checkpoint = read_checkpoint(parent)
    tuning = _Tuning(checkpoint, rows, validation[: config.eval_rows], config, _method(config))
    job = Job(
        title=tuning.method.title,
        settings=_settings(tuning.method, checkpoint, rows, validation, config),
        config=config,
        make_trainer=tuning.make_trainer,
        add_metrics=lambda metrics: {**metrics, **tuning.counted},
        tokenizer=parent,
        datasets=(*checkpoint.record.datasets, *_named(datasets, tuning.method.name)),
        parent_tag=parent_tag,
    )
    return carry_out(job, run, progress)


@dataclass(slots=True)
class _Tuning:
    """How one run builds its trainer; `counted` is known afterwards."""

    checkpoint: Checkpoint
    rows: Sequence[DatasetRow]
    held: Sequence[DatasetRow]
    config: TuneConfig
    method: Method
    counted: Metrics = field(default_factory=dict)

    def make_trainer(self, run: RunFolder, budget: Budget) -> Any:
        config, method, parent = self.config, self.method, self.checkpoint.path
        network = load_network(parent, device=device_of(config))
        add_dropout(network, config.dropout)
        tokenizer = load_chat_tokenizer(parent)
        check_template(tokenizer, (*self.rows, *self.held), parent)
        check_vocabulary(network, len(tokenizer), parent)
        length = network.config.max_position_embeddings
        learnt = method.encode(self.rows, tokenizer, length, config, "train")
        held = method.encode(self.held, tokenizer, length, config, "validation")
        self.counted = _counts(learnt)
        rows_per_step = config.device_batch_size * config.grad_accum_steps * world_size()
        _limit(budget, config, learnt, method.passes, rows_per_step)
        if is_pretrained(self.checkpoint, network):
            config = suited_to_pretrained(config, method.rate_ratio, budget.max_steps)
            logger.info(
                "run=%s tunes weights from elsewhere optimizer=%s rate=%s warmup_steps=%d",
                *(run.path.name, config.optimizer_name, config.adamw_learning_rate),
                config.warmup_steps,
            )
        parts = Parts(
            network=network,
            load_reference=lambda: _reference(parent, config),
            tokenizer=tokenizer,
            learnt=learnt,
            held=held,
            config=config,
            arguments=_arguments(config, run, budget),
            lora=_lora(config, network),
        )
        return _equip(method.make_trainer(parts), method, parts, budget, rows_per_step)


def _named(datasets: Sequence[DatasetRef], method: str) -> list[DatasetRef]:
    """The datasets with the method that learns from them; feedback and replay say it already."""
    return [
        dataset.model_copy(update={"use": method}) if dataset.use in METHODS else dataset
        for dataset in datasets
    ]


def _method(config: TuneConfig) -> Method:
    methods = {SftConfig: SFT, KtoConfig: KTO, DpoConfig: DPO}
    return methods[type(config)]


def _equip(trainer: Any, method: Method, parts: Parts, budget: Budget, rows_per_step: int) -> Any:
    """Give a trainer its rates, its budget and the order of its rows."""
    config, lengths = parts.config, parts.learnt.lengths
    ratio = method.rate_ratio * (LORA_RATIO if config.lora_rank else 1.0)
    rates = learning_rates(parts.network.config.hidden_size, config, ratio)
    mean = sum(lengths) / len(lengths)
    trainer.keeps_start = True
    trainer.equip(config, rates, budget, mean * method.passes * rows_per_step)
    # Without padding like lengths gain nothing, and a batch of long rows takes the most memory.
    trainer.row_order = RowOrder(
        lengths if trainer.has_padding else [1] * len(lengths),
        rows_per_step,
        length=budget.trainer_steps * rows_per_step,
        seed=config.seed,
    )
    return trainer


def _limit(
    budget: Budget, config: TuneConfig, learnt: Rows, passes: int, rows_per_step: int
) -> None:
    """Turn passes over the rows, and tokens, into steps, now that both are counted."""
    mean = sum(learnt.lengths) / len(learnt.rows)
    limit_tokens(budget, config, mean * passes * rows_per_step)
    if config.epochs is not None:
        steps = math.ceil(config.epochs * len(learnt.rows) / rows_per_step)
        budget.max_steps = min(steps, budget.max_steps or steps)


def _reference(parent: Path, config: TuneConfig) -> PreTrainedModel | None:
    """The network before tuning; with LoRA it is the tuned one without its additions."""
    if config.lora_rank is not None:
        return None
    return load_network(parent, device=device_of(config))


def _lora(config: TuneConfig, network: PreTrainedModel) -> LoraConfig | None:
    if config.lora_rank is None:
        return None
    if isinstance(network.config, RnnConfig):
        raise ConfigError(
            "lora_rank is set, but LoRA adds to linear layers and a recurrent network has none. "
            "Train all of its weights."
        )
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _arguments(config: TuneConfig, run: RunFolder, budget: Budget) -> dict[str, Any]:
    return {
        **trainer_arguments(config, run, budget),
        "activation_checkpointing": False,
        "remove_unused_columns": False,
    }


def _counts(encoded: Rows) -> Metrics:
    return {
        "rows": float(len(encoded.rows)),
        "truncated_rows": float(encoded.truncated),
        "dropped_rows": float(sum(encoded.dropped.values())),
    }


def _settings(
    method: Method,
    parent: Checkpoint,
    rows: Sequence[DatasetRow],
    validation: Sequence[DatasetRow],
    config: TuneConfig,
) -> dict[str, str]:
    """Everything that decides the weights, as text."""
    return {
        "kind": method.name,
        "parent_sha256": parent.sha256,
        "rows": merkle_root([row.id for row in rows]),
        "validation": merkle_root([row.id for row in validation]),
        **deciding(method.name, config),
    }
