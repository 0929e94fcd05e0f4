"""How many windows a decision needs: looks at ever more of them, until an interval is clear.

Every look asks whether means lie above or below their limits. With several looks at growing data
some interval would miss the truth too often by chance, so each takes its share of the error
(Bonferroni): 5 % over all looks of all limits that one decision has.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Floats = NDArray[np.float64]
Verdict = Literal["passes", "fails"]

FIRST_LOOK = 8  # windows; fewer give a t distribution whose tails are too wide to decide anything
_ERROR = 0.05


def looks(windows: int, least: int = 0) -> list[int]:
    """Numbers of windows after which a decision may fall, each twice the one before it.

    Args:
        windows: that there are, the last look.
        least: before which nothing is decided.

    Example: 48 windows give [8, 16, 32, 48].
    """
    found, count = [], max(FIRST_LOOK, least)
    while count < windows:
        found.append(count)
        count *= 2
    return [*found, windows]


def spread(count: int) -> NDArray[np.int64]:
    """An order of `count` windows whose first few lie evenly over all of them: bits reversed.

    Example: 6 gives [0, 4, 2, 1, 5, 3].
    """
    bits = max(1, (count - 1).bit_length())
    reversed_bits = [int(f"{number:0{bits}b}"[::-1], 2) for number in range(1 << bits)]
    return np.array([number for number in reversed_bits if number < count])


def interval(values: Floats, error: float = _ERROR) -> tuple[float, float] | None:
    """Two-sided interval of the mean of independent values [N], by Student's t distribution.

    None where there is none: of one value, and of values that are no numbers.
    """
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    mean = float(values.mean())
    margin = -float(stdtrit(len(values) - 1, error / 2))
    margin *= float(values.std(ddof=1)) / np.sqrt(len(values))
    return mean - margin, mean + margin


def decide(excesses: Sequence[Floats], *, looks: int, is_last: bool) -> Verdict | None:
    """Whether all means lie at or below zero, as far as that is clear; None if it is not.

    Args:
        excesses: by limit, how far each window lies above it, [N].
        looks: that there will be at most.
        is_last: then the means themselves decide.
    """
    if not all(np.isfinite(values).all() for values in excesses):
        return "fails"
    if is_last:
        return "passes" if all(values.mean() <= 0 for values in excesses) else "fails"
    found = [interval(values, _ERROR / (looks * len(excesses))) for values in excesses]
    known = [each for each in found if each is not None]
    if any(low > 0 for low, _ in known):
        return "fails"
    is_clear = len(known) == len(excesses) and all(high <= 0 for _, high in known)
    return "passes" if is_clear else None
