import numpy as np
import pytest
from scipy import stats

from feedback.paired import detectable_gain, interval, p_value


def test_p_value_is_exact_for_few_rows() -> None:
    # Of the 2^5 sign patterns only one gives a mean as large as that of five equal gains.
    assert p_value(np.full(5, 0.2), resamples=9999, seed=0) == 1 / 32


def test_p_value_of_no_difference_is_one() -> None:
    assert p_value(np.zeros(40), resamples=999, seed=0) == 1.0


def test_p_value_is_close_to_the_t_test_on_normal_gains() -> None:
    gains = np.random.default_rng(1).normal(0.03, 0.2, 200)
    wanted = stats.ttest_1samp(gains, 0.0, alternative="greater").pvalue
    assert p_value(gains, resamples=9999, seed=0) == pytest.approx(wanted, abs=0.006)


def test_p_value_depends_on_the_seed_alone() -> None:
    gains = np.random.default_rng(1).normal(0.02, 0.2, 60)
    assert p_value(gains, 499, seed=3) == p_value(gains, 499, seed=3)
    assert p_value(gains, 499, seed=3) != p_value(gains, 499, seed=4)


def test_interval_is_close_to_that_of_the_normal_law() -> None:
    values = np.random.default_rng(2).normal(0.5, 0.2, 400)
    low, high = interval(values, 0.95, resamples=4999, seed=0)
    half = 1.96 * values.std(ddof=1) / 20
    assert low == pytest.approx(values.mean() - half, abs=0.002)
    assert high == pytest.approx(values.mean() + half, abs=0.002)


def test_interval_of_equal_values_is_that_value() -> None:
    assert interval(np.full(30, 0.25), 0.95, resamples=199, seed=0) == (0.25, 0.25)


def test_interval_of_values_that_are_nearly_all_equal_is_finite() -> None:
    values = np.zeros(30)
    values[7] = 1.0
    low, high = interval(values, 0.95, resamples=199, seed=0)
    assert 0.0 <= low <= values.mean() <= high <= 0.2


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for seed in range(200):
        low, high = interval(rng.beta(0.6, 1.4, 60), 0.9, resamples=499, seed=seed)
        covered += low <= 0.3 <= high
    assert 168 <= covered <= 192  # 180 expected, standard deviation 4.2


def test_detectable_gain_of_the_worked_example() -> None:
    gains = np.tile([0.4, -0.4], 50)
    assert detectable_gain(gains, 0.05, 0.8) == pytest.approx(0.0995, abs=0.0006)


@pytest.mark.parametrize("rows", [0, 1])
def test_detectable_gain_without_a_spread_takes_the_largest(rows: int) -> None:
    assert detectable_gain(np.zeros(rows), 0.05, 0.8) == pytest.approx(2.486, abs=0.001)


def test_gain_that_is_called_detectable_is_found_with_that_power() -> None:
    rng = np.random.default_rng(6)
    gain = detectable_gain(rng.normal(0, 0.3, 100_000)[:80], 0.05, 0.8)
    found = sum(p_value(rng.normal(gain, 0.3, 80), 499, seed) <= 0.05 for seed in range(200))
    assert 138 <= found <= 182  # 160 expected, standard deviation 5.7, and the spread is estimated
