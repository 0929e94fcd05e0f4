"""What a fine-tuning method is made of; sft.py, kto.py and dpo.py each hold one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from everloop.records import DatasetRow
from training.encoded_rows import EncodedRows
from training.row_order import RowOrder

Rows = EncodedRows[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a method builds its trainer from.

    Attributes:
        load_reference: gives the network as it was before tuning; None with LoRA, where it is the
            network without its additions.
        arguments: of the trainer's configuration, those that all methods share.
        lora: the additions to train, or None to train all weights.
    """

    network: PreTrainedModel
    load_reference: Callable[[], PreTrainedModel | None]
    tokenizer: PreTrainedTokenizerBase
    learnt: Rows
    held: Rows
    config: Any
    arguments: dict[str, Any]
    lora: LoraConfig | None

    @property
    def pad_token_id(self) -> int:
        """The token that fills up shorter rows; any will do, since nothing sees it."""
        return self.tokenizer.pad_token_id or 0

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """What every method's trainer gets, whatever it does with it."""
        return {
            "model": self.network,
            "train_dataset": _as_dataset(self.learnt),
            "eval_dataset": _as_dataset(self.held),
            "processing_class": self.tokenizer,
            "peft_config": self.lora,
        }


class Encode(Protocol):
    """Encodes the rows of a split."""

    def __call__(
        self,
        rows: Sequence[DatasetRow],
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        config: Any,
        split: str,
    ) -> Rows:
        """Give the rows that the method learns from."""
        ...


@dataclass(frozen=True, slots=True)
class Method:
    """One way of tuning a checkpoint.

    Attributes:
        name: of its table in the TOML.
        title: of its bar.
        rate_ratio: of the derived learning rates: tuning moves the weights less than pre-training.
        passes: how many sequences go through the model for each row, to count tokens.
    """

    name: str
    title: str
    rate_ratio: float
    encode: Encode
    make_trainer: Callable[[Parts], Any]
    passes: int = 1


def _as_dataset(encoded: Rows) -> Dataset:
    """The rows as TRL takes them, one column per field."""
    names = [field.name for field in fields(encoded.rows[0])]
    return Dataset.from_list([{name: getattr(row, name) for name in names} for row in encoded.rows])


class OrderedRows:
    """Overrides of a Trainer that reads its rows in a given order; stands before its class.

    Attributes:
        has_padding: whether the rows of a batch are made equally long, so that like lengths pay.
    """

    row_order: RowOrder
    has_padding = True

    def _get_train_sampler(
        self,
        train_dataset: Any = None,  # noqa: ARG002 - the order was made with the rows
    ) -> RowOrder:
        return self.row_order

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: a saved state is no model to publish."""


class EncodedAlready:
    """Override of a TRL trainer that gets encoded rows; stands before its class."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset
