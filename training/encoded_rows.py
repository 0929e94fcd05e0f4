"""Encoded rows of a split: what can be learnt from, and what happened to the others."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from transformers import PreTrainedTokenizerBase

from everloop.chat import template_turns
from everloop.errors import DataError
from everloop.records import DatasetRow, Message
from training.text_marks import special_texts

IGNORED = -100  # the label that the loss leaves out


class Sized(Protocol):
    """A row that knows how long it is."""

    @property
    def length(self) -> int:
        """Tokens that go through the model."""
        ...


R = TypeVar("R", bound=Sized)


@dataclass(slots=True)
class EncodedRows(Generic[R]):
    """All rows of a split that can be learnt from, and what happened to the others."""

    rows: list[R] = field(default_factory=list)
    truncated: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str) -> None:
        """Count a row that is left out."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [row.length for row in self.rows]


def encode_split(
    rows: Sequence[DatasetRow],
    split: str,
    tokenizer: PreTrainedTokenizerBase,
    add: Callable[[EncodedRows[R], DatasetRow], None],
) -> EncodedRows[R]:
    """Encode the rows of one split.

    Args:
        tokenizer: whose special tokens no message may hold.
        add: encodes a row and adds it, or drops it with a reason.

    Raises:
        DataError: a row belongs to another split, or nothing is left to learn from.
    """
    encoded: EncodedRows[R] = EncodedRows()
    marks = special_texts(tokenizer)
    for row in rows:
        if row.split != split:
            raise DataError(
                f"row {row.id[:12]} belongs to the {row.split} split and was given as {split} row. "
                "Choose rows by their split."
            )
        turns = (*(row.messages or ()), *(row.chosen or ()), *(row.rejected or ()))
        if forges_marks(turns, row.tools, marks):
            encoded.drop("special token in a message")
        else:
            add(encoded, row)
    if not encoded.rows:
        dropped = ", ".join(f"{count} {reason}" for reason, count in encoded.dropped.items())
        raise DataError(
            f"the {split} split has no row to learn from ({len(rows)} rows, dropped: "
            f"{dropped or 'none'}). Add rows of the kind that the method learns from; "
            "texts alone are learnt by --method pretrain."
        )
    return encoded


def forges_marks(
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]] | None,
    marks: Sequence[str],
) -> bool:
    """Whether a text holds one of the tokenizer's marks: it could end the user's turn."""
    texts = [message.model_dump_json() for message in messages]
    texts += [json.dumps(tool, ensure_ascii=False) for tool in tools or ()]
    return any(token in text for text in texts for token in marks)


def encode_conversation(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    tools: Sequence[dict[str, Any]] | None = None,
) -> tuple[list[int], list[bool]]:
    """Encode a conversation by the tokenizer's chat template.

    Args:
        messages: the conversation.
        tokenizer: with the template.
        tools: that the conversation may call.

    Returns:
        Token ids, and for each whether an assistant says it. Where the template marks no answers,
        as those of other projects may not, only the last answer counts.
    """
    turns = template_turns(messages)
    shown: Any = list(tools or ()) or None
    has_marks = "generation %}" in str(tokenizer.chat_template)
    encoding: Any = tokenizer.apply_chat_template(
        turns, shown, tokenize=True, return_dict=True, return_assistant_tokens_mask=has_marks
    )
    ids = list(encoding["input_ids"])
    if has_marks:
        return ids, [bool(said) for said in encoding["assistant_masks"]]
    prompt: Any = tokenizer.apply_chat_template(
        turns[:-1], shown, tokenize=True, return_dict=True, add_generation_prompt=True
    )
    differing = (a != b for a, b in zip(ids, prompt["input_ids"], strict=False))
    start = next(
        (index for index, other in enumerate(differing) if other), len(prompt["input_ids"])
    )
    return ids, [index >= start for index in range(len(ids))]


def split_answer(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    tools: Sequence[dict[str, Any]] | None = None,
) -> tuple[list[int], list[int]]:
    """Encode a conversation into its prompt and its last answer with the answer's end mark."""
    ids, said = encode_conversation(messages, tokenizer, tools)
    end = max((index + 1 for index, is_said in enumerate(said) if is_said), default=0)
    start = end
    while start > 0 and said[start - 1]:
        start -= 1
    return ids[:start], ids[start:end]
