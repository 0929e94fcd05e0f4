from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from everloop.errors import DataError
from training.export.chat_answers import (
    MAX_TOKENS,
    PROMPTS,
    ChatPrompts,
    answer_greedily,
    read_prompts,
    render,
)
from training.export.session import ReferenceRunner


class Counting:
    """After a token comes the next number."""

    def __init__(self) -> None:
        self.works: list[dict[int, list[int]] | None] = []

    def clear(self) -> None:
        self.works.append(None)

    def step(self, work: Mapping[int, Sequence[int]]) -> dict[int, np.ndarray]:
        self.works.append({row: list(tokens) for row, tokens in work.items()})
        return {
            row: np.eye(20, dtype=np.float32)[[(token + 1) % 20 for token in tokens]]
            for row, tokens in work.items()
        }


def test_answers_end_at_an_end_token_or_at_the_limit() -> None:
    model = Counting()
    prompts = [[3, 4], [9], [1, 2]]
    answers = list(answer_greedily(model, prompts, rows=2, max_tokens=4, ends={6, 7}))
    assert answers == [[5, 6], [10, 11, 12, 13], [3, 4, 5, 6]]
    assert model.works[:4] == [None, {0: [3, 4], 1: [9]}, {0: [5], 1: [10]}, {1: [11]}]


def test_built_in_prompts_are_asked_as_turns_and_answered_by_a_graph(
    tiny_checkpoint: Path, tiny_session: ort.InferenceSession
) -> None:
    chat = read_prompts(tiny_checkpoint, 1000)

    assert chat is not None
    assert len(chat.prompts) == len(PROMPTS)
    assert chat.ends == {0, 2}
    assert all(prompt[0] == 1 for prompt in chat.prompts)  # <|im_start|>
    short = ChatPrompts(tuple(prompt[-20:] for prompt in chat.prompts), chat.ends)
    answers = short.answers(ReferenceRunner(tiny_session, slots=8, capacity=short.capacity))
    assert len(answers) == len(PROMPTS)
    assert all(1 <= len(answer) <= MAX_TOKENS for answer in answers)


def test_no_prompts_for_a_model_that_is_too_short_or_does_not_chat(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    assert read_prompts(tiny_checkpoint, 40) is None
    for file in tiny_checkpoint.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).symlink_to(file)
    assert read_prompts(tmp_path, 1000) is None
    with pytest.raises(DataError, match="no chat template"):
        render(tmp_path, ["hello"])
