import numpy as np
import pytest

from benchmarks.divergence import Reference, difference_of_means, ratio_of_means


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64))
    return weights / weights.sum(axis=-1, keepdims=True)


def test_divergence_is_that_of_the_definition() -> None:
    random = np.random.default_rng(0)
    exact = random.normal(size=(5, 300)).astype(np.float32)
    other = exact + random.normal(size=(5, 300)).astype(np.float32) / 10 + 3  # a shift is nothing
    p, q = softmax(exact), softmax(other)
    expected = (p * np.log(p / q)).sum(axis=-1)
    np.testing.assert_allclose(Reference.of(exact).divergence(other), expected, rtol=1e-4)


def test_a_tiny_divergence_is_not_lost_in_rounding() -> None:
    exact = np.array([[10.0, 9.0, -4.0]], np.float32)
    other = exact + np.array([[2**-9, 0.0, 0.0]], np.float32)
    p, q = softmax(exact), softmax(other)
    expected = (p * np.log(p / q)).sum(axis=-1)  # 3.8e-7
    np.testing.assert_allclose(Reference.of(exact).divergence(other), expected, rtol=1e-2)


def test_agreement_is_of_the_likeliest_token() -> None:
    reference = Reference.of(np.array([[0.0, 2.0, 1.0], [5.0, 0.0, 0.0]], np.float32))
    given = np.array([[0.0, 9.0, 8.0], [0.0, 0.1, 0.0]], np.float32)
    assert reference.agrees(given).tolist() == [True, False]
    assert reference[1:].agrees(given[:1]).tolist() == [False]


def test_pairs_cancel_what_both_sides_share() -> None:
    hard = np.repeat(np.array([[1.0], [10.0], [100.0], [3.0]]), 4, axis=1)
    ratio = ratio_of_means(hard * 0.5, hard)
    assert (ratio.value, ratio.low, ratio.high) == (0.5, 0.5, 0.5)
    difference = difference_of_means(hard + 2, hard)
    assert difference.low == pytest.approx(2.0)
    assert difference.high == pytest.approx(2.0)


def test_interval_comes_from_clusters_and_not_from_their_places() -> None:
    two = np.repeat(np.array([[0.0], [1.0]]), 1_000, axis=1)
    interval = difference_of_means(two, np.zeros_like(two))
    assert (interval.low, interval.value, interval.high) == (0.0, 0.5, 1.0)
