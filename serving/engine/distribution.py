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

_DEPTH = 64  # logits per group in the two-level searches
_BLOCK = 8192  # weights between two looks at their sum
_BELOW_ONE = 1 - 1e-12  # so that rounding never leads past the last token
_TINY = float(np.finfo(np.float32).tiny)
_MASK = (1 << 64) - 1
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def uniform(seed: int, position: int, attempt: int = 0) -> float:
    """A random number in [0, 1), a function of its arguments alone.

    Source: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), the seed mixed once so that
    neighbouring seeds give unrelated streams; each position has a stream of attempts of its own.
    """
    state = _mix(_mix(seed & _MASK) + (position + 1) * _GOLDEN_GAMMA & _MASK)
    if attempt:
        state = _mix(state + attempt * _GOLDEN_GAMMA & _MASK)
    return (state >> 11) * 2.0**-53


def draw(logits: Logits, peak: np.float32, params: SamplingParams, seed: int, position: int) -> int:
    """Choose a token.

    Args:
        logits: (V,), of no use afterwards: the probabilities take their place, because a second
            array of that size would not stay in the processor's cache beside the first.
        peak: the largest of them, finite.
        params: of a row that is not greedy.
        seed, position: all that the choice depends on besides.
    """
    if params.top_k is not None:
        return _draw_from_top_k(logits, peak, params, uniform(seed, position))
    if params.min_p and params.top_p == 1:
        return _draw_from_min_p(logits, peak, params, uniform(seed, position))
    weights = _weights(logits, peak, params.temperature, out=logits)
    if params.top_p == 1:
        return _invert(weights, uniform(seed, position))[0]
    return _draw_from_top_p(weights, params, seed, position)


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


def _invert(weights: Logits, number: float) -> tuple[int, float]:
    """The index that a number in [0, 1) falls on, and the sum of the weights.

    Inverts the cumulative distribution in two levels: the group, then the token in it.
    """
    depth = _DEPTH if weights.size >= _DEPTH * _DEPTH else 1
    if weights.size % depth:
        weights = np.concatenate([weights, np.zeros(-weights.size % depth, np.float32)])
    groups = weights.reshape(depth, -1)  # group g holds tokens g, g + G, g + 2 G, …
    cumulative = groups.sum(axis=0).cumsum(dtype=np.float64)
    target = min(number, _BELOW_ONE) * cumulative[-1]
    group = int(cumulative.searchsorted(target, side="right"))
    if depth == 1:
        return group, float(cumulative[-1])
    within = groups[:, group].cumsum(dtype=np.float64)
    # Where in the group's interval the number falls; its own sum differs a little by rounding.
    before = cumulative[group - 1] if group else 0.0
    share = (target - before) / (cumulative[group] - before)
    place = int(within.searchsorted(min(share, _BELOW_ONE) * within[-1], side="right"))
    return place * groups.shape[1] + group, float(cumulative[-1])


def _draw_from_min_p(
    logits: Logits, peak: np.float32, params: SamplingParams, number: float
) -> int:
    # One part in a million below the bound, so that rounding here never decides.
    bound = peak + np.float32(params.temperature * math.log(params.min_p * (1 - 1e-6)))
    tokens = np.flatnonzero(logits >= bound)
    weights = _weights(logits[tokens], peak, params.temperature)
    weights[weights < params.min_p] = 0
    return int(tokens[_invert(weights, number)[0]])


def _draw_from_top_p(weights: Logits, params: SamplingParams, seed: int, position: int) -> int:
    """Draw until a token is among the most probable that hold top_p of the mass.

    A token is kept when those before it, by falling weight and rising id, hold less than top_p.
    One that is not tells where the kept ones are to be found, so that few draws are ever needed:
    1.1 on average for 0.9, 3.3 for 0.1. Drawing again leaves the distribution what it is. Added up
    are those before the token or those from it on, whichever of the two decides sooner.
    """
    tokens: NDArray[np.intp] | None = None
    mass = None
    if params.min_p:
        mass = float(weights.sum())
        tokens = np.flatnonzero(weights >= params.min_p)
        weights = weights[tokens]
    attempt = 0
    while True:
        choice, total = _invert(weights, uniform(seed, position, attempt))
        mass = total if mass is None else mass
        is_before = np.empty(weights.size, bool)
        np.greater_equal(weights[:choice], weights[choice], out=is_before[:choice])
        np.greater(weights[choice:], weights[choice], out=is_before[choice:])
        inside = params.top_p * mass
        beyond = total - inside
        if beyond < inside:
            is_kept = _exceed(weights, ~is_before, beyond)
        else:
            is_kept = not _exceed(weights, is_before, math.nextafter(inside, 0))
        if is_kept:
            return choice if tokens is None else int(tokens[choice])
        before = np.flatnonzero(is_before)
        tokens = before if tokens is None else tokens[before]
        weights = weights[before]
        attempt += 1


def _exceed(weights: Logits, mask: NDArray[np.bool_], bound: float) -> bool:
    """Whether the masked weights add up to more than a bound; reads no further than to know it."""
    held = 0.0
    for start in range(0, weights.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        held += float((weights[block] * mask[block]).sum())
        if held > bound:
            return True
    return False


def _draw_from_top_k(
    logits: Logits, peak: np.float32, params: SamplingParams, number: float
) -> int:
    tokens = largest(logits, params.top_k or logits.size)[: params.top_k]
    weights = _weights(logits[tokens], peak, params.temperature)
    cumulative = weights.cumsum(dtype=np.float64)
    # A token is kept when those before it hold less than top_p.
    threshold = params.top_p * cumulative[-1]
    kept = min(int(cumulative.searchsorted(threshold, side="left")), tokens.size - 1)
    if params.min_p:
        kept = min(kept, int((weights >= params.min_p).sum()) - 1)
    target = min(number, _BELOW_ONE) * cumulative[kept]
    return int(tokens[cumulative.searchsorted(target, side="right")])


def _weights(
    logits: Logits, peak: np.float32, temperature: float, out: Logits | None = None
) -> Logits:
    """Probabilities times a constant: exp((logits - peak) / temperature)."""
    weights: Logits = np.subtract(logits, peak, out=out)
    if temperature != 1:
        # Never 0: times a logit of minus infinity that would be no number.
        weights *= np.float32(max(1 / temperature, _TINY))
    np.exp(weights, out=weights)
    return weights
