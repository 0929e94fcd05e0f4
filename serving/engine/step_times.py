"""How long steps take on this machine, and what follows from it for the next one.

Decode steps, prompt tokens and drafts are timed apart, in running medians that one slow step among
many does not move. From them come the tokens of a prompt that fit beside running answers, and the
price of a draft.
"""

import math

# Until decode has been timed.
_FIRST_CHUNK = 16
# So that a prompt always gets on; chunks are multiples of it, so that the shapes of runs repeat.
# Beside one answer in int8 and behind 2,000 tokens, 4 already take 3.3 times as long as none.
_LEAST_CHUNK = 4

_STEADY_RATE = 0.05
_FIRST_RATE = 0.5
_RETRY_RATE = 0.998
_MOST_DRAFTS = 64  # that are told apart
_TINY = 1e-7  # seconds; a median of 0 could not grow by a share of itself


class RunningMedian:
    """Follows the median of a series: each value moves it by a share of itself, up or down."""

    __slots__ = ("_count", "value")

    def __init__(self, value: float) -> None:
        self.value = value
        self._count = 1

    def add(self, value: float) -> None:
        """Take the next value."""
        self._count += 1
        rate = 1 + max(_FIRST_RATE / self._count, _STEADY_RATE)
        if value > self.value:
            self.value = min(value, max(self.value, _TINY) * rate)
        else:
            self.value = max(value, self.value / rate)


class MediansBySize:
    """Running medians of a figure that depends on a size."""

    def __init__(self) -> None:
        self._medians: dict[int, RunningMedian] = {}

    @property
    def knows_any(self) -> bool:
        """Whether there is a median at all."""
        return bool(self._medians)

    def add(self, size: int, value: float) -> None:
        """Take the next value of a size."""
        median = self._medians.get(size)
        if median is None:
            self._medians[size] = RunningMedian(value)
        else:
            median.add(value)

    def get(self, size: int) -> float | None:
        """The median of this size, or of the nearest known one; None if there is none."""
        median = self._medians.get(size)
        if median is not None:
            return median.value
        if not self._medians:
            return None
        nearest = min(self._medians, key=lambda known: abs(known - size))
        return self._medians[nearest].value

    def between(self, size: int) -> float | None:
        """The median of this size, or on the line between its known neighbours."""
        if size in self._medians:
            return self._medians[size].value
        below = max((known for known in self._medians if known <= size), default=None)
        above = min((known for known in self._medians if known >= size), default=None)
        if below is None or above is None or below == above:
            return self.get(size)
        low, high = self._medians[below].value, self._medians[above].value
        return low + (high - low) * (size - below) / (above - below)

    def scale(self, size: int, factor: float) -> None:
        """Multiply the median of a size, if it is known."""
        if size in self._medians:
            self._medians[size].value *= factor


class StepTimes:
    """Times of the steps of one model version.

    Args:
        max_slowdown: how many times as long as a decode step one with a prompt's chunk may take.
    """

    def __init__(self, max_slowdown: float) -> None:
        self._max_slowdown = max_slowdown
        self._decode = MediansBySize()  # seconds by rows
        self._prompt_token = MediansBySize()  # seconds, 1 beside decoding rows and 0 without
        self._draft = MediansBySize()  # seconds of one, by rows and number

    def record(
        self, seconds: float, num_decoding: int, num_prompt_tokens: int, num_drafts: int
    ) -> None:
        """Take the time of a step and what it did."""
        if not num_decoding:
            if num_prompt_tokens >= _FIRST_CHUNK:
                self._prompt_token.add(0, seconds / num_prompt_tokens)
        elif not num_prompt_tokens and not num_drafts:
            self._decode.add(num_decoding, seconds)
        elif (decode := self._decode.between(num_decoding)) is not None:
            extra = max(seconds - decode, 0.0)
            if num_prompt_tokens:
                self._prompt_token.add(1, extra / num_prompt_tokens)
            else:
                self._draft.add(_draft_key(num_decoding, num_drafts), extra / num_drafts)

    def max_prompt_tokens(self, num_decoding: int) -> int | None:
        """Prompt tokens that a step may run beside decoding rows; None for any number."""
        if not num_decoding:
            return None
        decode, token = self._decode.between(num_decoding), self._prompt_token.get(1)
        if decode is None or not token:
            return _FIRST_CHUNK
        limit = int((self._max_slowdown - 1) * decode / token)
        return max(limit - limit % _LEAST_CHUNK, _LEAST_CHUNK)

    def draft_prices(self, num_decoding: int, longest: int) -> list[float]:
        """What each draft costs when 1, 2, … are made, in tokens that the same time gives without.

        The first costs most: a matrix product of several rows takes another path than one of one
        row. All prices are infinite until something was timed.
        """
        decode = self._decode.between(num_decoding)
        if not decode:
            return [math.inf] * longest
        drafts = range(1, longest + 1)
        if self._draft.knows_any:
            seconds = [self._draft.get(_draft_key(num_decoding, count)) for count in drafts]
        else:
            seconds = [self._prompt_token.get(0)] * longest
        return [math.inf if one is None else one * num_decoding / decode for one in seconds]

    def doubt_draft_prices(self, num_decoding: int) -> None:
        """Lower prices that nobody paid, so that they are measured again some day."""
        for count in range(1, _MOST_DRAFTS):
            self._draft.scale(_draft_key(num_decoding, count), _RETRY_RATE)


def _draft_key(num_decoding: int, num_drafts: int) -> int:
    """Sizes of which those with as many rows are nearest to one another."""
    return num_decoding * _MOST_DRAFTS + min(num_drafts, _MOST_DRAFTS - 1)
