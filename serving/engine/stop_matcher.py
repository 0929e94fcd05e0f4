"""Finds the first of several texts in a text that comes in pieces, in linear time.

Source: Knuth, Morris and Pratt, Fast Pattern Matching in Strings, SIAM Journal on Computing, 1977.
Each text keeps how much of it the end of what came so far could be the beginning of; a character
costs constant work on average, however long the texts are and however they overlap themselves.
"""

from functools import lru_cache


class StopMatcher:
    """Looks for stops in one answer.

    Args:
        stops: none of them empty.
    """

    __slots__ = ("_borders", "_matched", "_stops")

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._borders = [_borders(stop) for stop in stops]
        self._matched = [0] * len(stops)  # characters of each that have come

    @property
    def num_pending(self) -> int:
        """How many of the last characters a stop could begin with."""
        return max(self._matched)

    def find(self, text: str) -> tuple[int, int] | None:
        """Take the next piece.

        Returns:
            Where the stop that is complete first ends in the piece, and its length, that of the
            longest if several end there; None if none ends in it. Nothing may follow a stop.
        """
        ends = [end for number in range(len(self._stops)) if (end := self._end(number, text))]
        if not ends:
            return None
        return min(ends, key=lambda end: (end[0], -end[1]))

    def _end(self, number: int, text: str) -> tuple[int, int] | None:
        stop, borders, matched = self._stops[number], self._borders[number], self._matched[number]
        for place, character in enumerate(text, start=1):
            while matched and stop[matched] != character:
                matched = borders[matched]
            if stop[matched] == character:
                matched += 1
                if matched == len(stop):
                    return place, matched
        self._matched[number] = matched
        return None


@lru_cache(maxsize=64)  # the answers to one request share them
def _borders(stop: str) -> tuple[int, ...]:
    """For every length of a beginning, that of its longest proper end that is a beginning too.

    "abab" gives (0, 0, 0, 1): after "aba" and then not "b", "a" may still be the first character.
    """
    borders = [0, 0]
    for character in stop[1:-1]:
        border = borders[-1]
        while border and stop[border] != character:
            border = borders[border]
        borders.append(border + (stop[border] == character))
    return tuple(borders)
