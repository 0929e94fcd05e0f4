"""Draws against the textbook: softmax, full sort, cut, draw."""

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import chisquare
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from serving.engine.distribution import draw, largest, uniform
from serving.engine.logprobs import token_logprobs
from serving.engine.sampling_params import SamplingParams


def _textbook(logits: NDArray[np.float32], params: SamplingParams) -> NDArray[np.float64]:
    """Probability of every token."""
    weights = np.exp((logits.astype(np.float64) - logits.max()) / params.temperature)
    order = np.argsort(-logits, kind="stable")[: params.top_k]
    probabilities = weights[order] / weights[order].sum()
    before = probabilities.cumsum() - probabilities
    kept = order[(before < params.top_p) & (weights[order] >= params.min_p)]
    result = np.zeros(logits.size)
    result[kept] = weights[kept] / weights[kept].sum()
    return result


def _logits(rows: int, vocab_size: int, seed: int = 0, scale: float = 2.0) -> NDArray[np.float32]:
    normal = np.random.default_rng(seed).standard_normal((rows, vocab_size))
    return (normal * scale).astype(np.float32)


def _draw_many(logits: NDArray[np.float32], params: SamplingParams, count: int) -> list[int]:
    return [draw(logits.copy(), logits.max(), params, 7, position) for position in range(count)]


SETTINGS = [
    SamplingParams(max_tokens=1),
    SamplingParams(max_tokens=1, temperature=0.5),
    SamplingParams(max_tokens=1, top_k=5),
    SamplingParams(max_tokens=1, top_p=0.8),
    SamplingParams(max_tokens=1, temperature=1.3, top_k=12, top_p=0.7),
    SamplingParams(max_tokens=1, min_p=0.2),
    SamplingParams(max_tokens=1, temperature=0.7, min_p=0.1, top_p=0.9),
    SamplingParams(max_tokens=1, temperature=1.5, min_p=0.3, top_k=20, top_p=0.8),
]


@pytest.mark.parametrize("params", SETTINGS)
def test_textbook_is_what_transformers_does(params: SamplingParams) -> None:
    scores = torch.from_numpy(_logits(1, 300, scale=3.0))
    expected = TemperatureLogitsWarper(params.temperature)(None, scores)
    if params.top_k is not None:
        expected = TopKLogitsWarper(params.top_k)(None, expected)
    if params.top_p < 1:
        expected = TopPLogitsWarper(params.top_p)(None, expected)
    if params.min_p:
        expected = MinPLogitsWarper(params.min_p)(None, expected)
    found = _textbook(scores[0].numpy(), params)
    np.testing.assert_allclose(found, expected[0].softmax(-1).numpy(), atol=1e-6)


@pytest.mark.parametrize("params", SETTINGS)
def test_draw_draws_with_the_textbooks_probabilities(params: SamplingParams) -> None:
    logits = _logits(1, 40, scale=1.0)[0]
    counts = np.bincount(_draw_many(logits, params, 8_000), minlength=40)
    expected = _textbook(logits, params)
    assert not counts[expected == 0].any()
    # Five standard deviations of each count, and all counts together by chi-square.
    limit = 5 * np.sqrt(8_000 * expected * (1 - expected)) + 1e-9
    assert (np.abs(counts - 8_000 * expected) <= limit).all()
    kept = expected > 0
    assert chisquare(counts[kept], 8_000 * expected[kept]).pvalue > 1e-4


@pytest.mark.parametrize("vocab_size", [1, 7, 64, 257, 5000, 20_011])
@pytest.mark.parametrize("scale", [0.0, 0.01, 3.0, 30.0])
def test_draw_stays_within_the_textbooks_set(vocab_size: int, scale: float) -> None:
    logits = _logits(1, vocab_size, scale=scale)[0]
    for params in SETTINGS:
        allowed = _textbook(logits, params) > 0
        assert all(allowed[token] for token in _draw_many(logits, params, 50))


def test_draw_finds_a_nucleus_of_most_of_a_flat_vocabulary() -> None:
    # Nearly flat: 9,000 of 10,000 tokens are needed.
    logits = _logits(1, 10_000, scale=0.001)[0]
    params = SamplingParams(max_tokens=1, top_p=0.9)
    drawn = _draw_many(logits, params, 300)
    assert len(set(drawn)) > 200
    assert (_textbook(logits, params)[drawn] > 0).all()


def test_draw_inverts_the_distribution_of_the_largest_in_falling_order() -> None:
    logits = _logits(1, 3000, scale=2.0)[0]
    params = SamplingParams(max_tokens=1, top_k=500, top_p=0.95)
    order = np.argsort(-logits, kind="stable")
    cumulative = _textbook(logits, params)[order].cumsum()
    expected = [int(order[(cumulative <= uniform(7, row)).sum()]) for row in range(200)]
    assert _draw_many(logits, params, 200) == expected


@pytest.mark.parametrize("top_p", [0.1, 0.3, 0.97])
def test_draw_with_top_p_passes_a_chi_square_test_on_a_large_vocabulary(top_p: float) -> None:
    logits = _logits(1, 20_000, seed=3, scale=2.0)[0]
    params = SamplingParams(max_tokens=1, top_p=top_p)
    expected = _textbook(logits, params)
    counts = np.bincount(_draw_many(logits, params, 4000), minlength=20_000)
    assert not counts[expected == 0].any()
    order = np.argsort(-expected)  # ten bins of about the same mass
    bins = np.minimum(expected[order].cumsum() * 10, 9.999).astype(int)
    found = np.bincount(bins, counts[order], 10)
    mass = np.bincount(bins, expected[order], 10)
    assert chisquare(found[mass > 0], 4000 * mass[mass > 0]).pvalue > 1e-4


def test_draw_breaks_ties_by_the_lower_token() -> None:
    params = SamplingParams(max_tokens=1, top_k=3)
    assert set(_draw_many(np.zeros(1000, np.float32), params, 100)) == {0, 1, 2}


def test_draw_with_a_tiny_temperature_does_not_overflow() -> None:
    logits = _logits(1, 1000, scale=100.0)[0]
    params = SamplingParams(max_tokens=1, temperature=2e-5)
    assert set(_draw_many(logits, params, 10)) == {int(logits.argmax())}


def test_draw_never_draws_a_token_of_no_probability() -> None:
    logits = np.full(1000, -np.inf, np.float32)
    logits[[3, 700]] = 0.0
    for params in (SETTINGS[0], SETTINGS[2], SETTINGS[3]):
        assert set(_draw_many(logits, params, 50)) <= {3, 700}


@pytest.mark.parametrize("min_p", [0.001, 0.05, 0.5, 1.0])
def test_draw_with_min_p_keeps_the_tokens_of_that_share_of_the_peak(min_p: float) -> None:
    logits = np.log(np.array([0.051, 1.0, 0.501, 0.0009, 0.0011], np.float32))
    params = SamplingParams(max_tokens=1, min_p=min_p, temperature=1.0)
    expected = {0.001: {0, 1, 2, 4}, 0.05: {0, 1, 2}, 0.5: {1, 2}, 1.0: {1}}[min_p]
    assert set(_draw_many(logits, params, 3000)) == expected


@pytest.mark.parametrize("size", [1, 5, 64, 1000, 49_152])
def test_largest_is_the_head_of_the_full_sort(size: int) -> None:
    logits = _logits(1, size)[0].round(1)  # with many ties
    order = np.argsort(-logits, kind="stable")
    for count in (1, 3, 20, 64, 2000):
        found = largest(logits, count)
        assert found.size >= min(count, size)
        assert found.tolist() == order[: found.size].tolist()


def test_uniform_is_a_function_of_seed_and_position() -> None:
    # The first outputs of SplitMix64 from seed 0, as its authors publish them.
    published = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)
    assert [uniform(0, i) * 2**53 for i in range(3)] == [x >> 11 for x in published]
    assert uniform(-1, 5) == uniform(2**64 - 1, 5)
    numbers = {uniform(3, position, attempt) for position in range(50) for attempt in range(50)}
    assert len(numbers) == 2500


def test_uniform_is_spread_evenly_over_seeds_and_positions() -> None:
    numbers = np.array([[uniform(seed, i) for i in range(200)] for seed in range(200)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    assert (np.abs(counts - 2000) < 5 * np.sqrt(2000)).all()
    neighbours = np.corrcoef(numbers[:-1].ravel(), numbers[1:].ravel())[0, 1]
    assert abs(neighbours) < 0.03


class _Watched(np.ndarray):
    """Notes how many numbers are sorted, in it or in what is computed from it."""

    sizes: ClassVar[list[int]] = []

    def sort(self, *arguments: Any, **options: Any) -> None:
        self.sizes.append(self.size)
        super().sort(*arguments, **options)

    def argsort(self, *arguments: Any, **options: Any) -> Any:
        self.sizes.append(self.size)
        return super().argsort(*arguments, **options)

    def partition(self, *arguments: Any, **options: Any) -> None:
        self.sizes.append(self.size)
        super().partition(*arguments, **options)

    def argpartition(self, *arguments: Any, **options: Any) -> Any:
        self.sizes.append(self.size)
        return super().argpartition(*arguments, **options)


@pytest.mark.parametrize("params", SETTINGS)
def test_no_draw_sorts_the_vocabulary(params: SamplingParams) -> None:
    logits = _logits(1, 50_000)[0]
    _Watched.sizes.clear()
    draw(logits.copy().view(_Watched), logits.max(), params, 7, 1)
    token_logprobs(logits.view(_Watched), 5, 20)
    assert 20 <= max(_Watched.sizes) < 50_000 // 20
