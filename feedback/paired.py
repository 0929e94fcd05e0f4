"""Statistics of paired differences: is there a gain, how large, and how large could one be missed.

Resampling instead of formulas, because scores between 0 and 1 are seldom normal. Everything is
seeded.
"""

import math
import warnings

import numpy as np
from numpy.typing import NDArray
from scipy import stats

_RESAMPLES_AT_ONCE = 512  # bounds the memory; the result is the same


def p_value(gains: NDArray[np.float64], resamples: int, seed: int) -> float:
    """Chance of a mean gain this large, or larger, if the two versions were equally good.

    Permutation test of paired samples, one-sided: under the null hypothesis the sign of each
    difference is a coin toss. Exact when all sign patterns are fewer than `resamples`.

    Args:
        gains: candidate minus champion, one per row, [N], N at least 2.
    """
    result = stats.permutation_test(
        (gains,),
        np.mean,
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=resamples,
        batch=_RESAMPLES_AT_ONCE,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def interval(
    values: NDArray[np.float64], confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Two-sided bootstrap confidence interval of the mean.

    Bias-corrected and accelerated (BCa); the plain percentiles where that is undefined, as for
    values that are nearly all equal.

    Args:
        values: [N], N at least 2.
        confidence: such as 0.95.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 14.
    """
    if np.ptp(values) == 0.0:
        return float(values[0]), float(values[0])
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            found = stats.bootstrap(
                (values,),
                np.mean,
                vectorized=True,
                confidence_level=confidence,
                n_resamples=resamples,
                batch=_RESAMPLES_AT_ONCE,
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        low, high = float(found.low), float(found.high)
        if math.isfinite(low) and math.isfinite(high):
            break
    return low, high


def detectable_gain(gains: NDArray[np.float64], alpha: float, power: float) -> float:
    """The true mean gain that a one-sided test at `alpha` would find with this power.

    Normal approximation, `(z[1 - alpha] + z[power]) * s / sqrt(N)`: for a spread s of 0.4 over 100
    rows, alpha 0.05 and power 0.8 it is 0.0995.

    Args:
        gains: [N]; fewer than two say nothing of their spread, which is then taken to be the
            largest that scores between 0 and 1 allow, 1.
    """
    spread = float(np.std(gains, ddof=1)) if gains.size > 1 else 1.0
    quantiles = stats.norm.ppf(1 - alpha) + stats.norm.ppf(power)
    return float(quantiles * spread / math.sqrt(max(gains.size, 1)))
