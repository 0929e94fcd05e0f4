"""Two precisions' distances from fp32 beside each other, and how sure the comparison is.

Shapes: N windows, T tokens of one that are scored.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.export.divergence import Floats

_RESAMPLES = 4_000
_INTERVAL = (2.5, 97.5)  # percentiles


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the 95 % interval of a bootstrap over its clusters."""

    value: float
    low: float
    high: float


def ratio_of_means(ours: Floats, theirs: Floats) -> Interval:
    """Mean of ours over mean of theirs; the rows of [N, T] are the clusters, the same for both."""
    return _resampled(ours, theirs, lambda a, b: a / b)


def difference_of_means(ours: Floats, theirs: Floats) -> Interval:
    """Mean of ours less mean of theirs, likewise."""
    return _resampled(ours, theirs, lambda a, b: a - b)


def _resampled(
    ours: Floats, theirs: Floats, compare: Callable[[Floats, Floats], Floats]
) -> Interval:
    count = len(ours)
    means = np.stack([values.reshape(count, -1).mean(axis=1) for values in (ours, theirs)])
    chosen = np.random.default_rng(0).integers(0, count, (_RESAMPLES, count))
    low, high = np.percentile(compare(*means[:, chosen].mean(axis=-1)), _INTERVAL)
    return Interval(float(compare(*means.mean(axis=-1))), float(low), float(high))
