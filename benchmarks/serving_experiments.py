"""The experiments of benchmarks.server: what each sends, to whom, and the figures it gives.

Everybody who takes part in an experiment gets the same trace, one after the other, in every round.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from benchmarks.report import PressureMeter, Result
from benchmarks.traffic import Disturbance, Request, Summary, Timeline, burst, poisson_trace

Send = Callable[[Sequence[Request], int], list[Timeline]]

HTTP, BARE = "HTTP", "bare loop"

_QUIET_SECONDS = 0.3
_RATE_PER_CLIENT = 1.0  # requests per second
_LATENCIES = {
    "TTFT p50": "ttft_p50",
    "TTFT p99": "ttft_p99",
    "inter-token p50": "inter_token_p50",
    "inter-token p99": "inter_token_p99",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is sent.

    Attributes:
        streams: equal ones, of `prompt_tokens` and `stream_tokens`.
        requests: by number of clients.
        disturbed_tokens: of each of the streams that a long prompt meets.
        long_prompt: its tokens.
        undisturbed_tokens: that each stream has before the long prompt comes.
    """

    rounds: int
    vocab_size: int
    requests: Mapping[int, int]
    streams: int = 32
    prompt_tokens: int = 128
    stream_tokens: int = 96
    disturbed_streams: int = 8
    disturbed_tokens: int = 512
    long_prompt: int = 2_000
    undisturbed_tokens: int = 128


@dataclass(slots=True)
class Runs:
    """Summaries of every round, by who answered, and how busy the idle machine was before each."""

    summaries: dict[str, list[Summary]] = field(default_factory=dict)
    pressures: list[float] = field(default_factory=list)

    def run(self, name: str, send: Send, trace: Sequence[Request], clients: int) -> None:
        """Send a trace and note its summary."""
        pressure = idle_pressure()
        self.pressures += [] if pressure is None else [pressure]
        self.summaries.setdefault(name, []).append(Summary.of(send(trace, clients)))

    @property
    def pressure(self) -> float | None:
        """The mean, where the kernel tells."""
        return statistics.fmean(self.pressures) if self.pressures else None

    def compare(
        self, title: str, figure: str, ours: str, peer: str | None, target: float | None = None
    ) -> Result:
        """One line: a figure of ours next to a peer's, or alone."""
        unit = "tokens/s" if figure == "tokens_per_second" else "ms"
        scale = 1.0 if unit == "tokens/s" else 1e3
        values = [getattr(summary, figure) * scale for summary in self.summaries[ours]]
        if peer is None:
            return Result.of_values(title, unit, values, cpu_pressure=self.pressure)
        peers = [getattr(summary, figure) * scale for summary in self.summaries[peer]]
        name = f"{title} / {peer}"
        return Result.of_rounds(name, unit, values, peers, target, cpu_pressure=self.pressure)


def idle_pressure() -> float | None:
    """CPU pressure while nothing of ours runs; a server and its clients press by themselves."""
    meter = PressureMeter()
    time.sleep(_QUIET_SECONDS)
    return meter.read()


def equal_streams(
    sides: Mapping[str, Send],
    loop_seconds: Callable[[], float],
    sizes: Sizes,
    advance: Callable[[], None],
) -> list[Result]:
    """Streams of equal lengths that start together: what HTTP costs.

    A trace before the rounds does not count: in it everybody touches memory for the first time and
    meets new shapes.

    Args:
        sides: HTTP and BARE among them.
        loop_seconds: processor time that the service's event loop has used so far.
        sizes: how much is sent.
        advance: called after each trace.
    """
    random = np.random.default_rng(1)
    runs = Runs()
    costs = []
    draw = partial(
        burst, random, sizes.streams, sizes.prompt_tokens, sizes.stream_tokens, sizes.vocab_size
    )
    trace = draw()
    for send in sides.values():
        send(trace, sizes.streams)
    for _ in range(sizes.rounds):
        trace = draw()
        for name, send in sides.items():
            used = loop_seconds()
            runs.run(name, send, trace, sizes.streams)
            if name == HTTP:
                tokens = sizes.streams * sizes.stream_tokens
                costs.append((loop_seconds() - used) / tokens * 1e6)
            advance()
    title = f"{sizes.streams} equal streams, through HTTP"
    targets = {BARE: 0.9}
    return [
        *(
            runs.compare(title, "tokens_per_second", HTTP, name, targets.get(name))
            for name in sides
            if name != HTTP
        ),
        Result.of_values(
            f"{title}: processor time of the event loop",
            "us/token",
            costs,
            cpu_pressure=runs.pressure,
        ),
    ]


def poisson_arrivals(
    sides: Mapping[str, Send], sizes: Sizes, clients: int, advance: Callable[[], None]
) -> list[Result]:
    """Ragged requests by a Poisson process, taken by so many clients.

    Args:
        sides: HTTP among them; each of the others is compared with it.
        sizes: how much is sent.
        clients: at once.
        advance: called after each trace.
    """
    random = np.random.default_rng(clients)
    runs = Runs()
    for _ in range(sizes.rounds):
        rate = _RATE_PER_CLIENT * clients
        trace = poisson_trace(random, sizes.requests[clients], rate, sizes.vocab_size)
        for name, send in sides.items():
            runs.run(name, send, trace, clients)
            advance()
    title = f"Poisson, {clients} client{'s' if clients > 1 else ''}"
    figures = {"throughput": "tokens_per_second", **_LATENCIES}
    peers: list[str | None] = [name for name in sides if name != HTTP]
    return [
        runs.compare(f"{title}, {label}", figure, HTTP, peer)
        for (label, figure), peer in itertools.product(figures.items(), peers or [None])
    ]


def against_static_batches(
    ours: Send, static: Send, label: str, sizes: Sizes, clients: int, advance: Callable[[], None]
) -> list[Result]:
    """The same ragged requests through the engine alone and through an engine of static batches.

    Args:
        ours: the bare loop.
        static: a peer that ends a batch before it takes the next.
        label: of the peer.
        sizes: how much is sent.
        clients: requests at once.
        advance: called after each trace.
    """
    random = np.random.default_rng(2)
    runs = Runs()
    for _ in range(sizes.rounds):
        rate = _RATE_PER_CLIENT * clients
        trace = poisson_trace(random, sizes.requests[clients], rate, sizes.vocab_size)
        for name, send in ((BARE, ours), (label, static)):
            runs.run(name, send, trace, clients)
            advance()
    title = f"Poisson, {clients} at once, {BARE}"
    return [
        runs.compare(f"{title}, throughput", "tokens_per_second", BARE, label, 1.5),
        runs.compare(f"{title}, TTFT p50", "ttft_p50", BARE, label),
        runs.compare(f"{title}, TTFT p99", "ttft_p99", BARE, label),
    ]


def long_prompt(send: Send, sizes: Sizes, advance: Callable[[], None]) -> list[Result]:
    """What running streams feel while a long prompt is read."""
    random = np.random.default_rng(3)
    seen: list[Disturbance] = []
    pressures: list[float] = []
    for _ in range(sizes.rounds):
        count, tokens = sizes.disturbed_streams, sizes.disturbed_tokens
        trace = burst(random, count, sizes.prompt_tokens, tokens, sizes.vocab_size)
        (late,) = burst(random, 1, sizes.long_prompt, 1, sizes.vocab_size)
        trace.append(Request(0.0, late.prompt, late.tokens, sizes.undisturbed_tokens))
        pressure = idle_pressure()
        pressures += [] if pressure is None else [pressure]
        *streams, last = send(trace, len(trace))
        seen.append(Disturbance.of(streams, last))
        advance()
    title = f"{sizes.disturbed_streams} streams"
    arrival = f"while {sizes.long_prompt:,} tokens arrive"
    quiet = statistics.fmean(pressures) if pressures else None

    def line(name: str, unit: str, values: list[float], at_most: float | None = None) -> Result:
        return Result.of_values(name, unit, values, at_most=at_most, cpu_pressure=quiet)

    return [
        line(f"{title}, inter-token p50 before", "ms", [one.median_before * 1e3 for one in seen]),
        line(f"{title}, inter-token p99 {arrival}", "ms", [one.p99_during * 1e3 for one in seen]),
        line(
            f"{title}, p99 {arrival} / p50 before",
            "ratio",
            [one.p99_during / one.median_before for one in seen],
            at_most=3.0,
        ),
        line(f"TTFT of the {sizes.long_prompt:,} tokens", "ms", [one.ttft * 1e3 for one in seen]),
    ]
