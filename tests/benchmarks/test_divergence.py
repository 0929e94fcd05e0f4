import numpy as np
import pytest

from benchmarks.divergence import difference_of_means, ratio_of_means


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
