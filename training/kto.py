"""Tuning on answers that people approved or refused, by TRL's KTO: no answer needs a counterpart.

Source: Ethayarajh et al. 2024, KTO: Model Alignment as Prospect Theoretic Optimization,
arXiv:2402.01306.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase
from trl.trainer.kto_config import KTOConfig as TrlConfig
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference, KTOTrainer

from everloop.errors import DataError
from everloop.records import DatasetRow
from training.config import KtoConfig
from training.encoded_rows import EncodedRows
from training.method import EncodedAlready, Method, OrderedRows, Parts
from training.preference_rows import RatedRow, encode_rated
from training.recipe import RecipeMixin


class KtoRunTrainer(OrderedRows, EncodedAlready, RecipeMixin, KTOTrainer):
    """TRL's trainer with this project's recipe."""


@dataclass
class MismatchingCollator(DataCollatorForUnpairedPreference):
    """Gives each prompt of a batch the answer of its neighbour too, to estimate the KL term.

    TRL does so once for a fixed order of rows; here the order changes with every epoch.
    """

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Make a batch."""
        answers = [example["completion_ids"] for example in examples]
        shifted = [answers[-1], *answers[:-1]]
        return super().torch_call(
            [
                {**example, "KL_completion_ids": answer}
                for example, answer in zip(examples, shifted, strict=True)
            ]
        )


def undesirable_weight(rows: Sequence[RatedRow], config: KtoConfig) -> float:
    """The weight of refused answers that makes both sides count alike, unless it is set.

    60 approved answers of weight 1 and 20 refused ones give 3.

    Raises:
        DataError: one side is missing.

    Source: equation 8 of the KTO paper.
    """
    approved = sum(row.label for row in rows)
    refused = len(rows) - approved
    if not approved or not refused:
        raise DataError(
            f"KTO learns from approved and refused answers; the training rows have {approved} and "
            f"{refused}. Collect the missing kind, or tune with sft."
        )
    return config.undesirable_weight or config.desirable_weight * approved / refused


def _encode(
    rows: Sequence[DatasetRow],
    tokenizer: PreTrainedTokenizerBase,
    context_length: int,
    config: KtoConfig,  # noqa: ARG001 - the methods share one signature
    split: str,
) -> EncodedRows[RatedRow]:
    return encode_rated(rows, tokenizer, context_length, split=split)


def _make_trainer(parts: Parts) -> KtoRunTrainer:
    config: KtoConfig = parts.config
    return KtoRunTrainer(
        **parts.trainer_arguments,
        ref_model=parts.load_reference(),
        args=TrlConfig(
            **parts.arguments,
            max_length=None,
            disable_dropout=not config.dropout,
            beta=config.beta,
            desirable_weight=config.desirable_weight,
            undesirable_weight=undesirable_weight(parts.learnt.rows, config),
        ),
        data_collator=MismatchingCollator(parts.pad_token_id, pad_to_multiple_of=32),
    )


KTO = Method("kto", "learn from ratings", 0.02, _encode, _make_trainer, passes=2)
