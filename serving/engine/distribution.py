"""One draw from the distribution of one row of logits. Never sorts the vocabulary.

Temperature, top_k, top_p and min_p are applied in this order, as transformers does
(GenerationMixin._get_logits_processor); each of the last three cuts the most probable tokens off
from the rest, so that the tightest cut is all that counts.
"""

import math

import numpy as np
from numpy.typing import NDArray

from serving.engine.sampling_params import SamplingParams

Logits = NDArray[np.float32]

_CANDIDATES = 64  # of a row with top_p; widened when they hold too little of the mass
_WIDENING = 8
_DEPTH = 64  # logits per group in the two-level searches
_BELOW_ONE = 1 - 1e-12  # so that rounding never leads past the last token
_MASK = (1 << 64) - 1
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def uniform(seed: int, position: int) -> float:
    """A random number in [0, 1), a function of its arguments alone.

    Source: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), the seed mixed once so that
    neighbouring seeds give unrelated streams.
    """
    state = _mix(seed & _MASK) + (position + 1) * _GOLDEN_GAMMA
    return (_mix(state & _MASK) >> 11) * 2.0**-53


def draw(logits: Logits, peak: np.float32, params: SamplingParams, number: float) -> int:
    """Choose the token that a number in [0, 1) falls on.

    Args:
        logits: (V,).
        peak: the largest of them, finite.
        params: of a row that is not greedy.
        number: uniform.
    """
    if params.top_k is None and params.top_p == 1:
        if params.min_p:
            return _draw_from_likely(logits, peak, params, number)
        return _draw_from_all(_weights(logits, peak, params.temperature), number)
    return _draw_from_largest(logits, peak, params, number)


def largest(logits: Logits, count: int) -> NDArray[np.intp]:
    """At least the `count` largest logits' tokens, by falling logit, then by rising token id.

    The count-th largest of the maxima of groups bounds the count-th largest logit from below, and
    finding it touches each logit once.
    """
    depth = max(1, min(_DEPTH, logits.size // (2 * count)))
    if count >= logits.size:
        tokens = np.arange(logits.size)
    else:
        maxima = logits[: logits.size // depth * depth].reshape(depth, -1).max(axis=0)
        bound = np.partition(maxima, maxima.size - count)[maxima.size - count]
        tokens = np.flatnonzero(logits >= bound)
    return tokens[np.argsort(-logits[tokens], kind="stable")]


def _mix(value: int) -> int:
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def _draw_from_all(weights: Logits, number: float) -> int:
    """Invert the cumulative distribution in two levels: the group, then the token in it."""
    padded = weights
    if weights.size % _DEPTH:
        padded = np.zeros(-(-weights.size // _DEPTH) * _DEPTH, np.float32)
        padded[: weights.size] = weights
    groups = padded.reshape(_DEPTH, -1)  # group g holds tokens g, g + G, g + 2 G, …
    index, rest = _invert(groups.sum(axis=0), number)
    place, _ = _invert(groups[:, index], rest)
    return place * groups.shape[1] + index


def _draw_from_likely(
    logits: Logits, peak: np.float32, params: SamplingParams, number: float
) -> int:
    """Draw from the tokens that min_p leaves; only they need an exponential."""
    # One part in a million below the bound, so that rounding here never decides.
    bound = peak + np.float32(params.temperature * math.log(params.min_p * (1 - 1e-6)))
    tokens = np.flatnonzero(logits >= bound)
    weights = _weights(logits[tokens], peak, params.temperature)
    weights[weights < params.min_p] = 0
    return int(tokens[_invert(weights, number)[0]])


def _invert(weights: Logits, number: float) -> tuple[int, float]:
    """The index that a number in [0, 1) falls on, and where in its interval it falls, in [0, 1)."""
    cumulative = weights.cumsum(dtype=np.float64)
    target = min(number, _BELOW_ONE) * cumulative[-1]
    index = int(cumulative.searchsorted(target, side="right"))
    return index, (target - (cumulative[index - 1] if index else 0.0)) / float(weights[index])


def _draw_from_largest(
    logits: Logits, peak: np.float32, params: SamplingParams, number: float
) -> int:
    """Draw from the top_k largest, or from the largest that hold top_p of the mass."""
    count = params.top_k or _CANDIDATES
    total = 0.0
    if params.top_k is None:
        total = float(_weights(logits, peak, params.temperature).sum(dtype=np.float32))
    while True:
        tokens = largest(logits, count)[: params.top_k]
        weights = _weights(logits[tokens], peak, params.temperature)
        cumulative = weights.cumsum(dtype=np.float64)
        threshold = params.top_p * (total or cumulative[-1])
        if params.top_k or cumulative[-1] >= threshold or tokens.size == logits.size:
            break
        count *= _WIDENING
    # A token is kept when those before it hold less than top_p.
    kept = min(int(cumulative.searchsorted(threshold, side="left")), tokens.size - 1)
    if params.min_p:
        kept = min(kept, int((weights >= params.min_p).sum()) - 1)
    target = min(number, _BELOW_ONE) * cumulative[kept]
    return int(tokens[cumulative.searchsorted(target, side="right")])


def _weights(logits: Logits, peak: np.float32, temperature: float) -> Logits:
    """Probabilities times a constant: exp((logits - peak) / temperature)."""
    weights: Logits = logits - peak
    if temperature != 1:
        weights *= np.float32(1 / temperature)
    np.exp(weights, out=weights)
    return weights
