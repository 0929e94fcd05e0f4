"""The next token of each row, from its logits. Never sorts the vocabulary.

Each row depends on its own logits, parameters, seed and position alone, so a request's tokens do
not depend on its batch mates. Rows are taken one by one because one row of logits stays in the
processor's second-level cache and a batch of them does not: for 32 rows of 49,152 logits that is
three times as fast as partitioning the batch.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from everloop.errors import EngineError
from serving.engine.sampling_params import SamplingParams

Logits = NDArray[np.float32]

_CANDIDATES = 64  # of a row with top_p; widened when they hold too little of the mass
_WIDENING = 8
_DEPTH = 64  # logits per group in the two-level searches
_BELOW_ONE = 1 - 1e-12  # so that rounding never leads past the last token
_MASK = (1 << 64) - 1
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def sample(
    logits: Logits,
    params: Sequence[SamplingParams],
    seeds: Sequence[int],
    positions: Sequence[int],
) -> list[int]:
    """Choose one token per row.

    Args:
        logits: (R, V).
        params: of each row.
        seeds: of each row; not read for greedy rows.
        positions: index of the new token in each row's completion.

    Raises:
        EngineError: a row has no largest logit (not a number).
    """
    tokens: list[int] = logits.argmax(axis=-1).tolist()
    for row, token in enumerate(tokens):
        peak = logits[row, token]
        if not -np.inf < peak < np.inf:
            raise EngineError(f"the model's logits are not finite (row {row} of the batch).")
        if not params[row].is_greedy:
            number = uniform(seeds[row], positions[row])
            tokens[row] = _draw(logits[row], peak, params[row], number)
    return tokens


def uniform(seed: int, position: int) -> float:
    """A random number in [0, 1), a function of its arguments alone.

    Source: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), the seed mixed once so that
    neighbouring seeds give unrelated streams.
    """
    state = _mix(seed & _MASK) + (position + 1) * _GOLDEN_GAMMA
    return (_mix(state & _MASK) >> 11) * 2.0**-53


def _mix(value: int) -> int:
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def _draw(logits: Logits, peak: np.float32, params: SamplingParams, number: float) -> int:
    if params.top_k is None and params.top_p == 1:
        return _draw_from_all(_weights(logits, peak, params.temperature), number)
    return _draw_from_largest(logits, peak, params, number)


def _draw_from_all(weights: Logits, number: float) -> int:
    """Invert the cumulative distribution in two levels: the group, then the token in it."""
    padded = np.zeros(-(-weights.size // _DEPTH) * _DEPTH, np.float32)
    padded[: weights.size] = weights
    groups = padded.reshape(_DEPTH, -1)  # group g holds tokens g, g + G, g + 2 G, …
    index, rest = _invert(groups.sum(axis=0), number)
    place, _ = _invert(groups[:, index], rest)
    return place * groups.shape[1] + index


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
        tokens = _largest(logits, count)[: params.top_k]
        cumulative = _weights(logits[tokens], peak, params.temperature).cumsum(dtype=np.float64)
        threshold = params.top_p * (total or cumulative[-1])
        if params.top_k or cumulative[-1] >= threshold or tokens.size == logits.size:
            break
        count *= _WIDENING
    # A token is kept when those before it hold less than top_p.
    kept = min(int(cumulative.searchsorted(threshold, side="left")), tokens.size - 1)
    target = min(number, _BELOW_ONE) * cumulative[kept]
    return int(tokens[cumulative.searchsorted(target, side="right")])


def _weights(logits: Logits, peak: np.float32, temperature: float) -> Logits:
    """Probabilities times a constant: exp((logits - peak) / temperature)."""
    weights: Logits = logits - peak
    if temperature != 1:
        weights *= np.float32(1 / temperature)
    np.exp(weights, out=weights)
    return weights


def _largest(logits: Logits, count: int) -> NDArray[np.intp]:
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
