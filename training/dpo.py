"""Tuning on pairs of an approved and a refused answer, by TRL's DPO.

Source: Rafailov et al. 2023, Direct Preference Optimization, arXiv:2305.18290.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase
from trl.trainer.dpo_config import DPOConfig as TrlConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

from everloop.records import DatasetRow
from training.config import DpoConfig
from training.encoded_rows import EncodedRows
from training.method import EncodedAlready, Method, OrderedRows, Parts
from training.preference_rows import PairRow, encode_pairs
from training.recipe import RecipeMixin
from training.reference_scores import ReferenceScores


class DpoRunTrainer(OrderedRows, EncodedAlready, RecipeMixin, ReferenceScores, DPOTrainer):
    """TRL's trainer with this project's recipe."""


def _encode(
    rows: Sequence[DatasetRow],
    tokenizer: PreTrainedTokenizerBase,
    context_length: int,
    config: DpoConfig,  # noqa: ARG001 - the methods share one signature
    split: str,
) -> EncodedRows[PairRow]:
    return encode_pairs(rows, tokenizer, context_length, split=split)


def _make_trainer(parts: Parts) -> DpoRunTrainer:
    config: DpoConfig = parts.config
    return DpoRunTrainer(
        **parts.trainer_arguments,
        ref_model=parts.load_reference(),
        args=TrlConfig(
            **parts.arguments,
            max_length=None,
            disable_dropout=not config.dropout,
            beta=config.beta,
        ),
        data_collator=DataCollatorForPreference(
            pad_token_id=parts.pad_token_id, pad_to_multiple_of=32
        ),
    )


DPO = Method("dpo", "learn from pairs", 0.02, _encode, _make_trainer, passes=2)
