"""Defaults for weights that come from elsewhere: they were trained long, and small steps suit them.

Everloop's own models of some million parameters train for minutes, and tune at rates of their own
(training/models.py). What a user sets stays as it is.
"""

from typing import Any

from transformers import PreTrainedModel

from training.checkpoint import Checkpoint
from training.config import TuneConfig
from training.rnn import RnnConfig

# AdamW's full rates for fine-tuning on answers; docs/decisions.md has the sweep.
LORA_RATE = 1e-3
FULL_RATE = LORA_RATE / 10
WARMUP_SHARE = 0.1  # of the run
_SFT_RATIO = 0.1  # of the derived rates of a method, to which these values belong


def is_pretrained(parent: Checkpoint, network: PreTrainedModel) -> bool:
    """Whether weights come from elsewhere: neither they nor their ancestors were trained here."""
    was_made_here = any(dataset.use == "pretrain" for dataset in parent.record.datasets)
    return not was_made_here and not isinstance(network.config, RnnConfig)


def suited_to_pretrained(config: TuneConfig, rate_ratio: float, steps: int | None) -> TuneConfig:
    """Fill in what the user left open: AdamW, its rate, and a warm-up of a tenth of the run.

    Args:
        config: what the user set.
        rate_ratio: of the method; those that move the weights less get less.
        steps: of the run; None where the clock alone ends it, which leaves the warm-up as it is.
    """
    changes: dict[str, Any] = {}
    rates = (config.muon_learning_rate, config.adamw_learning_rate, config.sgd_learning_rate)
    if config.optimizer is None and not any(rates):
        changes["optimizer"] = "adamw"
    optimizer = changes.get("optimizer", config.optimizer_name)
    if optimizer == "adamw" and config.adamw_learning_rate is None:
        full = FULL_RATE if config.lora_rank is None else LORA_RATE
        changes["adamw_learning_rate"] = full * rate_ratio / _SFT_RATIO
    if steps is not None and "warmup_steps" not in config.model_fields_set:
        changes["warmup_steps"] = max(1, round(WARMUP_SHARE * steps))
    return config.model_copy(update=changes)
