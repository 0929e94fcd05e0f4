"""A user's own tasks: one JSON object per line, answered by a model and checked.

The same file is read by the lm-eval tasks of benchmarks/lm_eval/, which ask a running server.

- `{"prompt": "2 + 2 =", "answer": "4"}`: the answer that the model writes must be this one, apart
  from case and spaces (exact match).
- `{"prompt": "The sky is", "choices": ["blue", "green"], "answer": 0}`: the model must find the
  choice with this index the likeliest, per byte (multiple choice).

A prompt of a model that was tuned on conversations is asked as a user's question.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError, model_validator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from everloop.errors import DataError
from everloop.records import Record
from everloop.text_files import read_text_lines
from training.generate import encode_prompt, generate
from training.scoring import log_likelihoods


class Task(Record):
    """One line of a task file."""

    prompt: str
    answer: str | int
    choices: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _answer_is_there(self) -> "Task":
        if self.choices is None and isinstance(self.answer, int):
            raise ValueError("answer is a number, but there are no choices")
        if self.choices is not None and (
            isinstance(self.answer, str) or not 0 <= self.answer < len(self.choices)
        ):
            raise ValueError(f"answer must be an index below {len(self.choices)}")
        return self


class TaskResult(Record):
    """What came of one task."""

    prompt: str
    expected: str
    found: str
    is_right: bool


def read_tasks(path: Path) -> list[Task]:
    """Read a task file.

    Raises:
        DataError: the file is absent, empty or no UTF-8, or a line is no task.
    """
    tasks = []
    for number, line in enumerate(read_text_lines(path), start=1):
        if line.strip():
            try:
                tasks.append(Task.model_validate(json.loads(line)))
            except (json.JSONDecodeError, ValidationError) as error:
                reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
                raise DataError(f"{path}:{number}: not a task: {reason}.") from error
    if not tasks:
        raise DataError(f"{path} holds no task.")
    return tasks


def run_tasks(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Task],
    *,
    as_chat: bool,
    max_new_tokens: int = 64,
) -> list[TaskResult]:
    """Let a model do tasks, greedily.

    Args:
        as_chat: ask the prompts as a user's questions.
    """
    results = []
    for task in tasks:
        prompt = encode_prompt(tokenizer, task.prompt, as_chat=as_chat)
        if task.choices is None:
            found = generate(network, tokenizer, prompt, max_new_tokens=max_new_tokens)
            expected = str(task.answer)
            is_right = is_same_answer(expected, found)
        else:
            index = _choose(network, tokenizer, prompt, task.choices, as_chat)
            found, expected = task.choices[index], task.choices[int(task.answer)]
            is_right = index == task.answer
        results.append(
            TaskResult(prompt=task.prompt, expected=expected, found=found, is_right=is_right)
        )
    return results


def is_same_answer(expected: str, found: str) -> bool:
    """Whether two answers are the same apart from case and spaces."""
    return _plain(expected) == _plain(found)


def _choose(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: list[int],
    choices: Sequence[str],
    as_chat: bool,
) -> int:
    texts = choices if as_chat else [f" {choice}" for choice in choices]
    answers = [
        tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids for text in texts
    ]
    room = network.config.max_position_embeddings - max(map(len, answers))
    sums = log_likelihoods(network, [(prompt[-room:], answer) for answer in answers])
    sizes = np.array([len(choice.encode("utf-8")) for choice in choices])
    return int((sums / np.maximum(sizes, 1)).argmax())


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
