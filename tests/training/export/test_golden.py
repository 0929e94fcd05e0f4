from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from everloop.errors import DataError
from tests.tiny_model import GOLDEN_PROMPTS
from training.export.golden import greedy, make_golden
from training.export.session import ReferenceRunner


@pytest.fixture
def tokenizer(tiny_checkpoint: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_checkpoint / "tokenizer.json"))


def test_make_golden_continues_as_transformers_does(
    tiny_checkpoint: Path, tiny_session: ort.InferenceSession, tokenizer: Tokenizer
) -> None:
    golden = make_golden(
        tiny_session, tokenizer, GOLDEN_PROMPTS, max_model_len=128, empty_prompt_token_id=0
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, attn_implementation="eager")

    assert len(golden.cases) == 3
    for case, prompt in zip(golden.cases, GOLDEN_PROMPTS, strict=True):
        assert tokenizer.decode(case.prompt_token_ids, skip_special_tokens=False) == prompt
        assert len(case.completion_token_ids) == 16
        generated = model.generate(
            torch.tensor([case.prompt_token_ids]),
            attention_mask=torch.ones(1, len(case.prompt_token_ids), dtype=torch.long),
            max_new_tokens=16,
            do_sample=False,
            eos_token_id=None,
        )
        assert tuple(generated[0, -16:].tolist()) == case.completion_token_ids


def test_make_golden_keeps_the_end_of_a_long_prompt(
    tiny_session: ort.InferenceSession, tokenizer: Tokenizer
) -> None:
    golden = make_golden(
        tiny_session, tokenizer, ["a" * 200 + "b", "", "c"], max_model_len=48,
        empty_prompt_token_id=0,
    )  # fmt: skip

    long, empty, _ = golden.cases
    assert tokenizer.decode(long.prompt_token_ids) == "a" * 31 + "b"
    assert empty.prompt_token_ids == (0,)


def test_make_golden_refuses_too_few_prompts(
    tiny_session: ort.InferenceSession, tokenizer: Tokenizer
) -> None:
    with pytest.raises(DataError, match="expected at least 3, got 2"):
        make_golden(tiny_session, tokenizer, ["a", "b"], max_model_len=48, empty_prompt_token_id=0)


class ScriptedRunner(ReferenceRunner):
    """Gives the logits it is told, one row per step."""

    def __init__(self, rows: list[list[float]]) -> None:
        self.lengths = np.zeros(1, np.int64)
        self._rows = iter(rows)

    def step(self, work: dict[int, list[int]]) -> dict[int, np.ndarray]:
        return {0: np.array([next(self._rows)], np.float32)}


def test_greedy_stops_short_of_a_near_tie() -> None:
    runner = ScriptedRunner([[0, 5, 1], [3, 1, 2], [1, 2, 1.9995], [9, 0, 0]])

    assert greedy(runner, [1], 16) == [1, 0]


def test_greedy_always_gives_a_token() -> None:
    assert greedy(ScriptedRunner([[2, 2, 0], [2, 2, 0]]), [1], 16) == [0]


def test_greedy_of_int8_follows_the_int8_graph(
    tiny_checkpoint: Path, build: Callable[..., ort.InferenceSession], tokens: list[int]
) -> None:
    session = build(tiny_checkpoint, "int8")

    completion = greedy(ReferenceRunner(session, slots=1, capacity=100), tokens[:20], 8)

    whole = ReferenceRunner(session, slots=1, capacity=100).step({0: tokens[:20] + completion})[0]
    assert whole.argmax(axis=-1)[19:-1].tolist() == completion
