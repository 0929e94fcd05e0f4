"""How far a quantized model's next tokens lie from those of its fp32 model, and how sure that is.

Shapes: N windows, T tokens of one that are scored, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Logits = NDArray[np.float32]

_RESAMPLES = 4_000
_INTERVAL = (2.5, 97.5)  # percentiles


@dataclass(frozen=True, slots=True)
class Reference:
    """What the fp32 model says at some places.

    Attributes:
        logits: [T, V].
        probabilities: their softmax.
    """

    logits: Logits
    probabilities: Logits

    @classmethod
    def of(cls, logits: Logits) -> "Reference":
        """Take the softmax."""
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return cls(logits, weights / weights.sum(axis=-1, keepdims=True))

    def __getitem__(self, places: slice) -> "Reference":
        """Of these places only."""
        return Reference(self.logits[places], self.probabilities[places])

    def divergence(self, logits: Logits) -> Floats:
        """KL(fp32 || quantized) of each place in nats, [T].

        From the differences of the logits, d: log(mean exp(d)) - mean(d) under the fp32
        probabilities. A difference of two logarithms would lose most of so small a number.
        """
        difference = logits - self.logits
        difference -= np.einsum("tv,tv->t", self.probabilities, difference)[:, None]
        rest = np.einsum("tv,tv->t", self.probabilities, difference)  # of rounding
        raised = np.expm1(difference, out=difference)
        mean = np.einsum("tv,tv->t", self.probabilities, raised)
        divergence: Floats = np.log1p(mean.astype(np.float64)) - rest
        return divergence

    def agrees(self, logits: Logits) -> NDArray[np.bool_]:
        """Whether the likeliest token is the same, [T]."""
        same: NDArray[np.bool_] = self.logits.argmax(axis=-1) == logits.argmax(axis=-1)
        return same


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
