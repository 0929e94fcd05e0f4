"""Dataset rows as prompts with answers that people liked or did not.

- rated: the answer with its verdict; a preference gives two of them.
- preference: the approved and the refused answer to one prompt.

An answer that exceeds half of the context is cut off on the right, then the prompt on the left, so
that what was asked last stays. Both are counted as truncated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from everloop.records import DatasetRow
from training.encoded_rows import EncodedRows, encode_split, split_answer


@dataclass(frozen=True, slots=True)
class RatedRow:
    """An answer to a prompt, approved or refused."""

    prompt_ids: list[int]
    completion_ids: list[int]
    label: bool

    @property
    def length(self) -> int:
        """Tokens that go through the model."""
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True, slots=True)
class PairRow:
    """An approved and a refused answer to one prompt."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]

    @property
    def length(self) -> int:
        """Tokens that go through the model, of the longer answer."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))


def encode_rated(
    rows: Sequence[DatasetRow],
    tokenizer: PreTrainedTokenizerBase,
    context_length: int,
    *,
    split: str,
) -> EncodedRows[RatedRow]:
    """Encode rated rows, and both sides of preferences.

    Raises:
        DataError: a row belongs to another split, or nothing is left to learn from.
    """

    def add(encoded: EncodedRows[RatedRow], row: DatasetRow) -> None:
        if row.kind not in ("rated", "preference"):
            encoded.drop(f"kind {row.kind}")
            return
        prompt = row.messages or ()
        sides = [(prompt, bool(row.label))]
        if row.kind == "preference":
            sides = [
                ((*prompt, *(row.chosen or ())), True),
                ((*prompt, *(row.rejected or ())), False),
            ]
        for messages, label in sides:
            asked, answer = split_answer(messages, tokenizer, row.tools)
            if not answer:
                encoded.drop("no answer")
                continue
            fitted, (kept,) = _fit(asked, [answer], context_length)
            encoded.truncated += (len(fitted), len(kept)) != (len(asked), len(answer))
            encoded.rows.append(RatedRow(fitted, kept, label))

    return encode_split(rows, split, tokenizer, add)


def encode_pairs(
    rows: Sequence[DatasetRow],
    tokenizer: PreTrainedTokenizerBase,
    context_length: int,
    *,
    split: str,
) -> EncodedRows[PairRow]:
    """Encode preferences.

    Raises:
        DataError: a row belongs to another split, or nothing is left to learn from.
    """

    def add(encoded: EncodedRows[PairRow], row: DatasetRow) -> None:
        if row.kind != "preference":
            encoded.drop(f"kind {row.kind}")
            return
        prompt = row.messages or ()
        asked, chosen = split_answer((*prompt, *(row.chosen or ())), tokenizer, row.tools)
        _, rejected = split_answer((*prompt, *(row.rejected or ())), tokenizer, row.tools)
        if not chosen or not rejected or chosen == rejected:
            encoded.drop("no two answers")
            return
        fitted, kept = _fit(asked, [chosen, rejected], context_length)
        encoded.truncated += [fitted, *kept] != [asked, chosen, rejected]
        encoded.rows.append(PairRow(fitted, *kept))

    return encode_split(rows, split, tokenizer, add)


def _fit(
    prompt: list[int], answers: list[list[int]], context_length: int
) -> tuple[list[int], list[list[int]]]:
    """Cut answers on the right and the prompt on the left until they fit."""
    longest = max(map(len, answers))
    if len(prompt) + longest > context_length:
        limit = max(context_length // 2, context_length - len(prompt))
        answers = [answer[:limit] for answer in answers]
        longest = min(longest, limit)
        prompt = prompt[max(0, len(prompt) - (context_length - longest)) :]
    return prompt, answers
