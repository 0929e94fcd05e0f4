"""Widths of heads that the attention operator takes, and where a checkpoint's values go in them.

GroupQueryAttention wants heads of a multiple of 8, with rotary positions of a multiple of 16 whose
rotated halves are multiples of 8. Other heads are widened with zeros, which change no score and add
nothing; the rotated halves are widened each for itself, because value j turns with value j of the
other half.
"""

from dataclasses import dataclass

import numpy as np

_PLAIN_DIVISOR = 8
_ROTARY_DIVISOR = 16
_NOWHERE = -1


@dataclass(frozen=True, slots=True)
class HeadLayout:
    """One head of the graph.

    Attributes:
        stored: width in the checkpoint.
        pairs: rotated pairs in the checkpoint; the halves lie one behind the other, at its start.
    """

    stored: int
    pairs: int

    @property
    def width(self) -> int:
        """Width in the graph."""
        divisor = _ROTARY_DIVISOR if self.pairs else _PLAIN_DIVISOR
        return _round_up(2 * self.padded_pairs + self.stored - 2 * self.pairs, divisor)

    @property
    def padded_pairs(self) -> int:
        """Rotated pairs in the graph."""
        return _round_up(self.pairs, _PLAIN_DIVISOR)

    def query_places(self) -> np.ndarray:
        """The place in the checkpoint of each value of a query or key; -1 for zero."""
        half = [*range(self.pairs), *[_NOWHERE] * (self.padded_pairs - self.pairs)]
        other = [place if place < 0 else place + self.pairs for place in half]
        return self._filled([*half, *other, *range(2 * self.pairs, self.stored)])

    def value_places(self) -> np.ndarray:
        """The same for values, which are not rotated."""
        return self._filled(list(range(self.stored)))

    def _filled(self, places: list[int]) -> np.ndarray:
        return np.array(places + [_NOWHERE] * (self.width - len(places)), np.int64)


def place(starts: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Places of whole tensors: heads that begin at `starts`, one behind the other; -1 for zero."""
    rows = starts[:, None] + places[None]
    return np.where(places[None] < 0, _NOWHERE, rows).reshape(-1)


def _round_up(number: int, divisor: int) -> int:
    return -(-number // divisor) * divisor
