import numpy as np
import pytest

from everloop.errors import DataError
from training.preference import accuracy, area_under_roc


def test_accuracy_counts_wins_and_half_of_ties() -> None:
    found = accuracy(np.array([1.0, 2.0, -1.0, 0.0]))
    assert found.value == 0.625
    assert found.low < 0.625 < found.high


def test_area_under_roc_is_the_share_of_pairs_in_order() -> None:
    scores = np.array([3.0, 1.0, 2.0, 0.0, 2.0])
    approved = np.array([True, True, False, False, True])
    # 3 beats both, 1 beats one of two, 2 beats one and ties with the other.
    assert area_under_roc(scores, approved).value == pytest.approx((2 + 1 + 1.5) / 6)


def test_area_under_roc_of_noise_holds_a_half() -> None:
    random = np.random.default_rng(1)
    found = area_under_roc(random.normal(size=400), random.random(400) < 0.7)
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.16


def test_area_under_roc_refuses_one_sided_ratings() -> None:
    with pytest.raises(DataError, match="approved and refused answers; one is missing"):
        area_under_roc(np.zeros(3), np.ones(3, dtype=bool))
