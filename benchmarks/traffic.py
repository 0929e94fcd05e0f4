"""Requests as they come to a server, and what is said of how they were answered.

Times are seconds from the start of a trace.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

PROMPT_TOKENS = (32, 512)  # of a ragged request: log-uniform between both
ANSWER_TOKENS = (16, 256)
_FIRST_WORD = 3  # the tokens before it control


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a trace.

    Attributes:
        arrival: when it comes.
        prompt: token ids.
        tokens: length of its answer.
        after_tokens: it comes when every request before it has so many.
    """

    arrival: float
    prompt: list[int]
    tokens: int
    after_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timeline:
    """How one request was answered.

    Attributes:
        sent: when a client took it up.
        tokens: that the server counted.
        token_times: when each token was there, but for those few that have no text.
    """

    sent: float
    tokens: int
    token_times: list[float] = field(default_factory=list)

    @property
    def moments(self) -> NDArray[np.float64]:
        """The times at which something came: tokens of one read or one step came together."""
        return np.unique(self.token_times)


def poisson_trace(
    random: np.random.Generator, count: int, rate: float, vocab_size: int
) -> list[Request]:
    """Requests of ragged lengths whose arrivals are a Poisson process.

    Args:
        random: source of lengths, arrivals and tokens.
        count: of requests; the first arrives at once.
        rate: arrivals per second, on average.
        vocab_size: of the model.
    """
    arrivals = random.exponential(1 / rate, count).cumsum()
    arrivals -= arrivals[0]
    prompts = _log_uniform(random, PROMPT_TOKENS, count)
    answers = _log_uniform(random, ANSWER_TOKENS, count)
    return [
        Request(arrival, random.integers(_FIRST_WORD, vocab_size, prompt).tolist(), answer)
        for arrival, prompt, answer in zip(arrivals.tolist(), prompts, answers, strict=True)
    ]


def burst(
    random: np.random.Generator, count: int, prompt_tokens: int, tokens: int, vocab_size: int
) -> list[Request]:
    """Equal requests that arrive at once."""
    prompts = random.integers(_FIRST_WORD, vocab_size, (count, prompt_tokens)).tolist()
    return [Request(0.0, prompt, tokens) for prompt in prompts]


@dataclass(frozen=True, slots=True)
class Summary:
    """What clients saw of a trace; latencies in seconds, inter-token ones over all gaps."""

    tokens_per_second: float
    ttft_p50: float
    ttft_p99: float
    inter_token_p50: float
    inter_token_p99: float

    @classmethod
    def of(cls, timelines: Sequence[Timeline]) -> "Summary":
        """Count tokens from the first request's start to the last token."""
        started = min(line.sent for line in timelines)
        ended = max(line.token_times[-1] for line in timelines)
        waits = [line.token_times[0] - line.sent for line in timelines]
        gaps = np.concatenate([np.diff(line.moments) for line in timelines])
        return cls(
            sum(line.tokens for line in timelines) / (ended - started),
            *np.percentile(waits, (50, 99)).tolist(),
            *np.percentile(gaps, (50, 99)).tolist(),
        )


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Inter-token latencies of running streams before and while a long prompt is read, seconds."""

    median_before: float
    p99_during: float
    ttft: float

    @classmethod
    def of(cls, streams: Sequence[Timeline], long_prompt: Timeline) -> "Disturbance":
        """Take the gaps that end before the long prompt was sent, and those that overlap it.

        Raises:
            RuntimeError: the streams were not running all the while.
        """
        begin, end = long_prompt.sent, long_prompt.token_times[0]
        begun = max(line.token_times[0] for line in streams)
        if begun >= begin or min(line.token_times[-1] for line in streams) <= end:
            raise RuntimeError("the streams must run before, while and after the long prompt.")
        before: list[float] = []
        during: list[float] = []
        for line in streams:
            times = line.moments
            gaps = np.diff(times)
            before += gaps[(times[:-1] >= begun) & (times[1:] <= begin)].tolist()
            during += gaps[(times[1:] > begin) & (times[:-1] < end)].tolist()
        return cls(float(np.median(before)), float(np.percentile(during, 99)), end - begin)


def to_json(trace: Sequence[Request]) -> str:
    """A trace as text, for another process."""
    return json.dumps([asdict(request) for request in trace])


def from_json(text: str) -> list[Request]:
    """Read a trace back."""
    return [Request(**fields) for fields in json.loads(text)]


def _log_uniform(random: np.random.Generator, bounds: tuple[int, int], count: int) -> list[int]:
    low, high = np.log(bounds)
    values: list[int] = np.exp(random.uniform(low, high, count)).round().astype(int).tolist()
    return values
