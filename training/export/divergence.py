"""How far a quantized model's next tokens lie from those of its fp32 model.

Shapes: T places in a text, V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Logits = NDArray[np.float32]

_CHUNK_VALUES = 1 << 18  # compared at once: 1 MiB stays in a processor's cache


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
        """KL(fp32 || quantized) of each place in nats, [T]; not finite where the logits are not.

        From the differences of the logits, d: log(mean exp(d)) - mean(d) under the fp32
        probabilities. A difference of two logarithms would lose most of so small a number.
        """
        difference = logits - self.logits
        difference -= np.einsum("tv,tv->t", self.probabilities, difference)[:, None]
        rest = np.einsum("tv,tv->t", self.probabilities, difference)  # of rounding
        with np.errstate(over="ignore", invalid="ignore"):
            raised = np.expm1(difference, out=difference)
            mean = np.einsum("tv,tv->t", self.probabilities, raised)
        divergence: Floats = np.log1p(mean.astype(np.float64)) - rest
        far = ~np.isfinite(divergence)  # exp(d) is beyond float32; so large a number loses nothing
        divergence[far] = _far_divergence(self.logits[far], logits[far])
        return divergence

    def agrees(self, logits: Logits) -> NDArray[np.bool_]:
        """Whether the likeliest token is the same, [T]."""
        same: NDArray[np.bool_] = self.logits.argmax(axis=-1) == logits.argmax(axis=-1)
        return same


def _far_divergence(exact: Logits, logits: Logits) -> Floats:
    ours, theirs = log_softmax(exact), log_softmax(logits)
    divergence: Floats = (np.exp(ours) * (ours - theirs)).sum(axis=-1)
    return divergence


def log_softmax(logits: Logits) -> Floats:
    """Logarithms of the probabilities, [T, V]."""
    shifted = logits - logits.max(axis=-1, keepdims=True).astype(np.float64)
    normalized: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalized


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of some places, [T] each.

    Attributes:
        divergences: KL to fp32 in nats.
        agreements: whether the likeliest token is the same.
    """

    divergences: Floats
    agreements: NDArray[np.bool_]


def compare(exact: Logits, logits: Logits) -> Comparison:
    """Compare logits [T, V] with those of fp32, a few places at a time."""
    divergences, agreements = np.empty(len(exact)), np.empty(len(exact), np.bool_)
    for at in _chunks(*exact.shape):
        reference = Reference.of(exact[at])
        divergences[at] = reference.divergence(logits[at])
        agreements[at] = reference.agrees(logits[at])
    return Comparison(divergences, agreements)


def _chunks(places: int, vocabulary: int) -> Iterator[slice]:
    size = max(1, _CHUNK_VALUES // vocabulary)
    return (slice(start, start + size) for start in range(0, places, size))
