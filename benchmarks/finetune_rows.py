"""Conversations for `benchmarks.finetune`: read from a file, or made of words."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from everloop.errors import DataError
from everloop.records import DatasetRow, Message, content_hash

Role = Literal["system", "user", "assistant", "tool"]


def read_conversations(path: Path) -> list[DatasetRow]:
    """Read conversations that end with an answer.

    Args:
        path: JSON lines with question and answer, as GSM8K has them, or with messages; or a JSON
            list of dialogues with utterances, as Taskmaster has them.

    Raises:
        DataError: the file holds none of these.
    """
    text = path.read_text(encoding="utf-8")
    try:
        is_list = text.lstrip().startswith("[")
        found = json.loads(text) if is_list else [json.loads(line) for line in text.splitlines()]
        rows = [row for one in found if (row := _as_row(list(_turns(one)))) is not None]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} holds no conversations that can be read ({error!r}).") from error
    if not rows:
        raise DataError(f"{path} holds no conversation that ends with an answer.")
    return rows


def made_up_conversations(count: int) -> list[DatasetRow]:
    """Questions and answers of random words and many lengths, the same at every call."""
    random = np.random.default_rng(0)
    words = ["ab", "cad", "efig", "hoj", "klemn", "opqur"]

    def text(longest: int) -> str:
        return " ".join(random.choice(words, int(random.integers(3, longest))))

    rows = [_as_row([("user", text(40)), ("assistant", text(20))]) for _ in range(count)]
    return [row for row in rows if row is not None]


def _turns(one: dict[str, Any]) -> Iterator[tuple[Role, str]]:
    if "utterances" in one:
        for utterance in one["utterances"]:
            yield "user" if utterance["speaker"] == "user" else "assistant", utterance["text"]
    elif "messages" in one:
        for message in one["messages"]:
            yield message["role"], message["content"]
    else:
        yield "user", one["question"]
        yield "assistant", one["answer"]


def _as_row(turns: list[tuple[Role, str]]) -> DatasetRow | None:
    """Join what one speaker says in a row, and end with the last answer."""
    messages: list[Message] = []
    for role, content in turns:
        if messages and messages[-1].role == role:
            joined = f"{messages.pop().content}\n{content}"
            messages.append(Message(role=role, content=joined))
        else:
            messages.append(Message(role=role, content=content))
    while messages and messages[-1].role != "assistant":
        messages.pop()
    if len(messages) < 2:
        return None
    kept = tuple(messages)
    return DatasetRow(id=content_hash(None, kept), split="train", sources=(), messages=kept)
