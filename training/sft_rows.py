"""Dataset rows as token ids with labels: which tokens of a row are learnt.

- a conversation: the assistant's turns with their end marks; the rest is read, not learnt. What
  exceeds the context is cut off on the right.
- a text: every token. Of a text longer than the context one window is taken, placed by the seed,
  so that replayed documents are not always their first page.

Both are counted as truncated. A row without a token to learn is dropped and counted, and so are the
kinds that other methods learn from. `pack_rows` puts several rows into one sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from everloop.records import DatasetRow
from training.encoded_rows import IGNORED, EncodedRows, encode_conversation, encode_split
from training.row_attention import row_places
from training.text_marks import document_end, document_start
from training.tokenizer import encode_plain


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """Token ids of one row, the id or IGNORED for each, and positions where rows are packed."""

    input_ids: list[int]
    labels: list[int]
    position_ids: list[int] | None = None

    @property
    def length(self) -> int:
        """Tokens that go through the model."""
        return len(self.input_ids)


def encode_rows(
    rows: Sequence[DatasetRow],
    tokenizer: PreTrainedTokenizerBase,
    context_length: int,
    *,
    split: str,
    seed: int,
) -> EncodedRows[EncodedRow]:
    """Encode the rows of one split.

    Raises:
        DataError: a row belongs to another split, or nothing is left to learn from.
    """

    def add(encoded: EncodedRows[EncodedRow], row: DatasetRow) -> None:
        if row.kind not in ("chat", "text"):
            encoded.drop(f"kind {row.kind}")
            return
        if row.kind == "chat":
            full, start = _encode_chat(row, tokenizer), 0
        else:
            full = _encode_text(row, tokenizer)
            start = _window_start(row.id, full.length, context_length, seed)
        window = slice(start, start + context_length)
        cut = EncodedRow(full.input_ids[window], full.labels[window])
        encoded.truncated += full.length > context_length
        # The first label is never predicted: no token stands before it.
        if all(label == IGNORED for label in cut.labels[1:]):
            encoded.drop("no token to learn")
            return
        encoded.rows.append(cut)

    return encode_split(rows, split, tokenizer, add)


def pack_rows(rows: Sequence[EncodedRow], context_length: int) -> list[EncodedRow]:
    """Put rows into sequences of at most the context's length, kept apart by their positions.

    Best fit, longest row first: with a context of 10, rows of 6, 5, 4 and 3 tokens become 6 + 4 and
    5 + 3. A row's first label is ignored, since the token before it belongs to another row.
    """
    bins: list[list[EncodedRow]] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda row: row.length, reverse=True):
        fitting = [index for index, left in enumerate(room) if left >= row.length]
        if fitting:
            best = min(fitting, key=lambda index: room[index])
        else:
            best = len(bins)
            bins.append([])
            room.append(context_length)
        bins[best].append(row)
        room[best] -= row.length
    return [
        EncodedRow(
            input_ids=[token for row in packed for token in row.input_ids],
            labels=[label for row in packed for label in (IGNORED, *row.labels[1:])],
            position_ids=[position for row in packed for position in range(row.length)],
        )
        for packed in bins
    ]


@dataclass(frozen=True, slots=True)
class Collator:
    """Makes a batch of rows of like length; padding stands on the right, where nothing sees it.

    Args:
        multiple: pad to a multiple of so many tokens. Few different lengths, so that freed memory
            fits again: 1.2 GB instead of 1.7 GB.
    """

    pad_token_id: int
    multiple: int = 32

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad and stack, each (B, T)."""
        longest = max(len(row["input_ids"]) for row in rows)
        width = -(-longest // self.multiple) * self.multiple
        batch = {
            "input_ids": [_padded(row["input_ids"], width, self.pad_token_id) for row in rows],
            "labels": [_padded(row["labels"], width, IGNORED) for row in rows],
        }
        if rows[0].get("position_ids") is not None:
            # The padding counts as one more row.
            batch["position_ids"] = [
                [*row["position_ids"], *range(width - len(row["position_ids"]))] for row in rows
            ]
        return {name: torch.tensor(values) for name, values in batch.items()}


@dataclass(frozen=True, slots=True)
class RowsCollator:
    """Makes one sequence of a batch's rows, without padding, for attention by rows."""

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Put the rows behind one another, (1, N); packed rows come apart again."""
        ids: list[int] = []
        labels: list[int] = []
        starts: list[int] = []
        for row in rows:
            places = row.get("position_ids") or range(len(row["input_ids"]))
            starts += [len(ids) + at for at, place in enumerate(places) if place == 0]
            ids += row["input_ids"]
            # No token of its own row stands before the first one.
            labels += [IGNORED, *row["labels"][1:]]
        ends = [*starts[1:], len(ids)]
        lengths = [end - start for start, end in zip(starts, ends, strict=True)]
        return {
            "input_ids": torch.tensor([ids]),
            "labels": torch.tensor([labels]),
            **row_places(lengths),
        }


def _padded(values: list[int], width: int, filler: int) -> list[int]:
    return values + [filler] * (width - len(values))


def _encode_chat(row: DatasetRow, tokenizer: PreTrainedTokenizerBase) -> EncodedRow:
    ids, said = encode_conversation(row.messages or (), tokenizer, row.tools)
    return EncodedRow(ids, [token if on else IGNORED for token, on in zip(ids, said, strict=True)])


def _encode_text(row: DatasetRow, tokenizer: PreTrainedTokenizerBase) -> EncodedRow:
    ids = encode_plain(tokenizer.backend_tokenizer, [row.text or ""])[0]
    end = document_end(tokenizer)
    whole = [*document_start(tokenizer), *ids, *([] if end is None else [end])]
    return EncodedRow(whole, whole)


def _window_start(row_id: str, length: int, context_length: int, seed: int) -> int:
    if length <= context_length:
        return 0
    generator = np.random.default_rng([seed, *row_id.encode("utf-8")])
    return int(generator.integers(length - context_length + 1))
