"""Greedy answers to a few chat prompts: what users of a chat model see of a precision.

One rounded product is enough to turn a greedy answer, so few answers of a good precision equal
fp32's to the last token; a precision that is no good keeps next to none.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from everloop.chat import ChatTemplate
from everloop.errors import DataError
from everloop.records import Message
from training.export.special_tokens import read_special_tokens
from training.export.tokenizer_files import TOKENIZER_FILE, read_chat_template

PROMPTS = (
    "What is the capital of France?",
    "Why is the sky blue?",
    "Write one sentence about the sea.",
    "How many days are in a leap year?",
    "List the four seasons.",
    'Translate "good morning" into Spanish.',
    "What is 12 plus 30?",
    "Give me a name for a black cat.",
)
MAX_TOKENS = 24


class Stepped(Protocol):
    """A model with a cache of some rows."""

    def clear(self) -> None:
        """Forget what all rows hold."""

    def step(self, work: Mapping[int, Sequence[int]]) -> dict[int, NDArray[np.float32]]:
        """Run new tokens of some rows; give row to logits [T, V]."""


@dataclass(frozen=True, slots=True)
class ChatPrompts:
    """Prompts in the tokens of a checkpoint.

    Attributes:
        prompts: each with the opening of the answer.
        ends: tokens that end an answer.
    """

    prompts: tuple[list[int], ...]
    ends: frozenset[int]

    @property
    def capacity(self) -> int:
        """Tokens of the longest prompt and its answer."""
        return max(map(len, self.prompts)) + MAX_TOKENS

    def answers(self, model: Stepped) -> list[list[int]]:
        """Answer all at once, greedily, up to 24 tokens each."""
        return list(
            answer_greedily(
                model, self.prompts, rows=len(self.prompts), max_tokens=MAX_TOKENS, ends=self.ends
            )
        )


def read_prompts(checkpoint: Path, max_model_len: int) -> ChatPrompts | None:
    """Render the built-in prompts; None for a model without a chat template, or too short a one.

    Raises:
        ArtifactError: the template does not compile.
    """
    if read_chat_template(checkpoint) is None:
        return None
    ends = frozenset(read_special_tokens(checkpoint).eos_token_ids)
    chat = ChatPrompts(tuple(render(checkpoint, PROMPTS)), ends)
    return chat if chat.capacity <= max_model_len else None


def render(checkpoint: Path, lines: Sequence[str]) -> list[list[int]]:
    """Tokens of one turn of a user each, with the opening of the answer.

    Raises:
        DataError: the checkpoint has no chat template.
    """
    source = read_chat_template(checkpoint)
    if source is None:
        raise DataError(f"{checkpoint}: no chat template. Answers need a model that chats.")
    tokenizer = Tokenizer.from_file(str(checkpoint / TOKENIZER_FILE))
    bos = read_special_tokens(checkpoint).bos_token_id
    token = None if bos is None else tokenizer.id_to_token(bos)
    template = ChatTemplate(source, bos_token=token or "")
    turns = [template.render([Message(role="user", content=line)]) for line in lines]
    return [tokenizer.encode(turn, add_special_tokens=False).ids for turn in turns]


def answer_greedily(
    model: Stepped,
    prompts: Sequence[Sequence[int]],
    *,
    rows: int,
    max_tokens: int,
    ends: Collection[int],
) -> Iterator[list[int]]:
    """Continue prompts with the likeliest tokens, so many rows at a time.

    Yields:
        The tokens of each answer, its end token among them.
    """
    for start in range(0, len(prompts), rows):
        model.clear()
        work: dict[int, Sequence[int]] = dict(enumerate(prompts[start : start + rows]))
        answers: dict[int, list[int]] = {row: [] for row in work}
        for _ in range(max_tokens):
            if not work:
                break
            chosen = {row: int(values[-1].argmax()) for row, values in model.step(work).items()}
            for row, token in chosen.items():
                answers[row].append(token)
            work = {row: [token] for row, token in chosen.items() if token not in ends}
        yield from answers.values()
