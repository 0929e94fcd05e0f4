"""How long steps take on this machine, and what follows from it for the next one.

Decode steps, prompt tokens and drafts are timed apart, in running medians that one slow step among
many does not move. From them come the tokens of a prompt that fit beside running answers, and the
price of a draft.
"""

# Until decode has been timed, and so that a prompt always gets on.
_FIRST_CHUNK = 64
_LEAST_CHUNK = 16
_CHUNK_MULTIPLE = 8  # few different chunks, so that the shapes of runs repeat

_STEADY_RATE = 0.05
_FIRST_RATE = 0.5
_RETRY_RATE = 0.998
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
        self._draft = MediansBySize()  # seconds by rows

    def record(
        self, seconds: float, num_decoding: int, num_prompt_tokens: int, num_drafts: int
    ) -> None:
        """Take the time of a step and what it did."""
        if not num_decoding:
            if num_prompt_tokens >= _LEAST_CHUNK:
                self._prompt_token.add(0, seconds / num_prompt_tokens)
        elif not num_prompt_tokens and not num_drafts:
            self._decode.add(num_decoding, seconds)
        elif (decode := self._decode.get(num_decoding)) is not None:
            extra = max(seconds - decode, 0.0)
            if num_prompt_tokens:
                self._prompt_token.add(1, extra / num_prompt_tokens)
            else:
                self._draft.add(num_decoding, extra / num_drafts)

    def max_prompt_tokens(self, num_decoding: int) -> int | None:
        """Prompt tokens that a step may run beside decoding rows; None for any number."""
        if not num_decoding:
            return None
        decode, token = self._decode.get(num_decoding), self._prompt_token.get(1)
        if decode is None or not token:
            return _FIRST_CHUNK
        limit = int((self._max_slowdown - 1) * decode / token)
        return max(limit - limit % _CHUNK_MULTIPLE, _LEAST_CHUNK)

    def draft_price(self, num_decoding: int) -> float:
        """What a draft costs, in tokens that the same time gives without it; 1 if unknown."""
        decode = self._decode.get(num_decoding)
        draft = self._draft.get(num_decoding)
        if draft is None:
            draft = self._prompt_token.get(0)
        if not decode or draft is None:
            return 1.0
        return draft * num_decoding / decode

    def doubt_draft_price(self, num_decoding: int) -> None:
        """Lower a price that nobody paid, so that it is measured again some day."""
        self._draft.scale(num_decoding, _RETRY_RATE)
