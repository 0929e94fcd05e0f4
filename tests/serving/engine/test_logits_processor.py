"""Masks, bias and penalties against slow dense versions."""

from collections import Counter

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from serving.engine.logits_processor import LogitsProcessor
from serving.engine.sampling_params import SamplingParams

VOCAB_SIZE = 300


def _params(**settings: object) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 500} | settings)


def _reference(
    logits: NDArray[np.float32], params: SamplingParams, prompt: list[int], answer: list[int]
) -> NDArray[np.float64]:
    """Every token of the vocabulary on its own, in float64."""
    counts = Counter(answer)
    result = logits.astype(np.float64)
    for token in range(logits.size):
        value = result[token] + params.logit_bias.get(token, 0.0)
        if token in counts or token in prompt:
            penalty = params.repetition_penalty
            value = value / penalty if value > 0 else value * penalty
        value -= counts[token] * params.frequency_penalty
        if token in counts:
            value -= params.presence_penalty
        result[token] = value
    return result


@pytest.mark.parametrize("seed", range(12))
def test_penalties_and_bias_equal_the_dense_reference_step_by_step(seed: int) -> None:
    random = np.random.default_rng(seed)
    params = _params(
        repetition_penalty=float(random.choice([1.0, 1.3, 0.7])),
        frequency_penalty=float(random.choice([0.0, 0.5, -1.0])),
        presence_penalty=float(random.choice([0.0, 1.5])),
        logit_bias={int(t): float(b) for t, b in random.uniform(0, 50, (5, 2)).round()},
    )
    prompt = random.integers(0, VOCAB_SIZE, 40).tolist()
    processor = LogitsProcessor(params, prompt, [0])
    answer: list[int] = []
    for _ in range(150):  # more than the first capacity holds
        logits = random.standard_normal(VOCAB_SIZE).astype(np.float32) * 3
        expected = _reference(logits, params, prompt, answer)
        processor.apply(logits)
        np.testing.assert_allclose(logits, expected, rtol=2e-6, atol=2e-6)
        token = int(random.integers(0, VOCAB_SIZE // 2))
        processor.accept(token)
        answer.append(token)


@pytest.mark.parametrize("penalty", [0.6, 1.7])
def test_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    random = np.random.default_rng(0)
    logits = random.standard_normal(VOCAB_SIZE).astype(np.float32)
    tokens = random.integers(0, VOCAB_SIZE, 80)
    reference = RepetitionPenaltyLogitsProcessor(penalty)
    expected = reference(torch.from_numpy(tokens)[None], torch.from_numpy(logits)[None].clone())
    processor = LogitsProcessor(_params(repetition_penalty=penalty), tokens[:50].tolist(), [])
    for token in tokens[50:].tolist():
        processor.accept(token)
    processor.apply(logits)
    np.testing.assert_allclose(logits, expected[0].numpy(), rtol=1e-6)


def test_frequency_and_presence_do_not_count_the_prompt() -> None:
    processor = LogitsProcessor(_params(frequency_penalty=1.0, presence_penalty=0.5), [1, 1], [])
    logits = np.zeros(4, np.float32)
    processor.apply(logits)
    assert logits.tolist() == [0.0, 0.0, 0.0, 0.0]
    processor.accept(1)
    processor.accept(1)
    processor.accept(3)
    processor.apply(logits)
    assert logits.tolist() == [0.0, -2.5, 0.0, -1.5]


def test_repetition_counts_prompt_and_answer_once_each() -> None:
    processor = LogitsProcessor(_params(repetition_penalty=2.0), [1, 1], [])
    processor.accept(2)
    processor.accept(2)
    logits = np.array([4.0, 4.0, -4.0, -4.0], np.float32)
    processor.apply(logits)
    assert logits.tolist() == [4.0, 2.0, -8.0, -4.0]


def test_min_tokens_forbids_every_end_until_there_are_enough() -> None:
    processor = LogitsProcessor(_params(min_tokens=2, stop_token_ids=(3,)), [], [0, 2])
    for _ in range(2):
        logits = np.zeros(5, np.float32)
        processor.apply(logits)
        assert np.flatnonzero(logits == -np.inf).tolist() == [0, 2, 3]
        processor.accept(4)
    logits = np.zeros(5, np.float32)
    processor.apply(logits)
    assert (logits == 0).all()


def test_bias_cannot_bring_back_what_is_forbidden() -> None:
    processor = LogitsProcessor(_params(min_tokens=1, logit_bias={0: 100.0}), [], [0])
    logits = np.zeros(3, np.float32)
    processor.apply(logits)
    assert logits[0] == -np.inf


@pytest.mark.parametrize(
    ("settings", "is_needed"),
    [
        ({}, False),
        ({"temperature": 0.0, "top_p": 0.5, "min_p": 0.1, "logprobs": 5}, False),
        ({"repetition_penalty": 1.1}, True),
        ({"frequency_penalty": -0.1}, True),
        ({"presence_penalty": 0.1}, True),
        ({"logit_bias": {1: 0.0}}, True),
        ({"min_tokens": 1}, True),
    ],
)
def test_is_needed_only_when_a_logit_may_change(
    settings: dict[str, object], is_needed: bool
) -> None:
    assert LogitsProcessor.is_needed(_params(**settings)) == is_needed
