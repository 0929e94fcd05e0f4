"""Dataset rows as token ids with labels: which tokens of a row are learnt.

- a conversation: the assistant's turns with their end marks; the rest is read, not learnt. What
  exceeds the context is cut off on the right.
- a text: every token. Of a text longer than the context one window is taken, placed by the seed,
  so that replayed documents are not always their first page.

Both are counted as truncated. A row without a token to learn is dropped and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from transformers import PreTrainedTokenizerBase

from everloop.chat import template_turns
from everloop.errors import DataError
from everloop.records import DatasetRow
from training.tokenizer import END_OF_TEXT, SPECIAL_TOKENS, encode_plain

IGNORED = -100  # the label that the loss leaves out


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """Token ids of one row, and the id or IGNORED for each."""

    input_ids: list[int]
    labels: list[int]


@dataclass(slots=True)
class EncodedRows:
    """All rows of a split that can be learnt from, and what happened to the others."""

    rows: list[EncodedRow] = field(default_factory=list)
    truncated: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str) -> None:
        """Count a row that is left out."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


def encode_rows(
    rows: Sequence[DatasetRow],
    tokenizer: PreTrainedTokenizerBase,
    context_length: int,
    *,
    split: str,
    seed: int,
) -> EncodedRows:
    """Encode the rows of one split.

    Raises:
        DataError: a row belongs to another split, or nothing is left to learn from.
    """
    encoded = EncodedRows()
    for row in rows:
        if row.split != split:
            raise DataError(
                f"row {row.id[:12]} belongs to the {row.split} split and was given as {split} row. "
                "Choose rows by their split."
            )
        _add(encoded, row, tokenizer, context_length, seed)
    if not encoded.rows:
        raise DataError(
            f"the {split} split has no row to learn from ({len(rows)} rows, dropped: "
            f"{encoded.dropped or 'none'}). Add conversations or texts."
        )
    return encoded


def _add(
    encoded: EncodedRows,
    row: DatasetRow,
    tokenizer: PreTrainedTokenizerBase,
    context_length: int,
    seed: int,
) -> None:
    if row.messages is not None:
        written = [message.model_dump_json() for message in row.messages]
        if any(token in text for text in written for token in SPECIAL_TOKENS):
            # The template's marks would be forged: a user's text could end the user's turn.
            encoded.drop("special token in a message")
            return
        full = _encode_chat(row, tokenizer)
        window = slice(0, context_length)
    else:
        full = _encode_text(row, tokenizer)
        start = _window_start(row.id, len(full.input_ids), context_length, seed)
        window = slice(start, start + context_length)
    cut = EncodedRow(full.input_ids[window], full.labels[window])
    encoded.truncated += len(full.input_ids) > context_length
    # The first label is never predicted: no token stands before it.
    if all(label == IGNORED for label in cut.labels[1:]):
        encoded.drop("no token to learn")
        return
    encoded.rows.append(cut)


def _encode_chat(row: DatasetRow, tokenizer: PreTrainedTokenizerBase) -> EncodedRow:
    encoding: Any = tokenizer.apply_chat_template(
        template_turns(row.messages or ()),
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ids = list(encoding["input_ids"])
    learnt = encoding["assistant_masks"]
    labels = [token if on else IGNORED for token, on in zip(ids, learnt, strict=True)]
    return EncodedRow(ids, labels)


def _encode_text(row: DatasetRow, tokenizer: PreTrainedTokenizerBase) -> EncodedRow:
    ids = encode_plain(tokenizer.backend_tokenizer, [row.text or ""])[0]
    end = cast(int, tokenizer.convert_tokens_to_ids(END_OF_TEXT))
    return EncodedRow([*ids, end], [*ids, end])


def _window_start(row_id: str, length: int, context_length: int, seed: int) -> int:
    if length <= context_length:
        return 0
    generator = np.random.default_rng([seed, *row_id.encode("utf-8")])
    return int(generator.integers(length - context_length + 1))
