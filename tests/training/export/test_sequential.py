import numpy as np
import pytest
from scipy import stats

from training.export.sequential import decide, interval, looks, spread


def test_looks_double_until_all_windows_are_read() -> None:
    assert looks(48) == [8, 16, 32, 48]
    assert looks(64) == [8, 16, 32, 64]
    assert looks(8) == looks(8, least=64) == [8]
    assert looks(3) == [3]
    assert looks(48, least=48) == [48]
    assert looks(48, least=20) == [20, 40, 48]


@pytest.mark.parametrize("count", [1, 2, 6, 48, 64])
def test_spread_orders_all_windows(count: int) -> None:
    assert sorted(spread(count)) == list(range(count))


def test_first_windows_of_a_spread_lie_evenly() -> None:
    assert spread(6).tolist() == [0, 4, 2, 1, 5, 3]
    assert sorted(spread(64)[:8]) == list(range(0, 64, 8))


def test_interval_is_that_of_students_t() -> None:
    values = np.array([1.0, 2.0, 4.0, 9.0])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval(values) == pytest.approx((expected.low, expected.high))


def test_there_is_no_interval_of_one_value_nor_of_what_is_no_number() -> None:
    assert interval(np.array([1.0])) is None
    assert interval(np.array([1.0, np.nan])) is None


@pytest.mark.parametrize(
    ("excesses", "expected"),
    [
        ([[-1.0, -1.1, -0.9, -1.0]], "passes"),
        ([[1.0, 1.1, 0.9, 1.0]], "fails"),
        ([[-1.0, 1.1, -0.9, 1.0]], None),
        ([[-1.0, -1.1, -0.9, -1.0], [1.0, 1.1, 0.9, 1.0]], "fails"),  # one is enough
        ([[-1.0, -1.1, -0.9, -1.0], [-1.0, 1.1, -0.9, 1.0]], None),
        ([[np.nan, -1.0, -1.0, -1.0]], "fails"),
        ([[-np.inf, -1.0, -1.0, -1.0]], "fails"),
    ],
)
def test_decision_falls_where_every_interval_is_clear(
    excesses: list[list[float]], expected: str | None
) -> None:
    assert decide(list(map(np.array, excesses)), looks=4, is_last=False) == expected


def test_the_last_look_decides_by_the_means() -> None:
    unclear = [np.array([-1.0, 1.1, -0.9, 0.7])]
    assert decide(unclear, looks=4, is_last=True) == "passes"
    assert decide([*unclear, np.array([-1.0, 1.1])], looks=4, is_last=True) == "fails"


def test_one_window_decides_only_at_the_last_look() -> None:
    assert decide([np.array([-1.0])], looks=2, is_last=False) is None
    assert decide([np.array([-1.0])], looks=1, is_last=True) == "passes"


def test_sequential_decisions_are_those_of_all_windows() -> None:
    """Planted precisions around a limit of 0.02: of those clear of it nearly all stop early."""
    random = np.random.default_rng(5)
    wrong, read = 0, []
    means = np.concatenate([np.full(150, 0.003), np.full(150, 0.27), np.full(100, 0.015)])
    for mean in means:
        excess = random.gamma(4.0, mean / 4.0, 64) - 0.02  # windows differ by half their mean
        counts = looks(64)
        verdicts = [
            decide([excess[:count]], looks=len(counts), is_last=count == 64) for count in counts
        ]
        first = next(place for place, verdict in enumerate(verdicts) if verdict)
        wrong += verdicts[first] != verdicts[-1]
        read.append(counts[first])
    assert wrong <= 0.05 * len(means)
    assert np.mean(read[:300]) < 10
    assert np.mean(read[300:]) < 48
