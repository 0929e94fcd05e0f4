import itertools
from collections.abc import Sequence

import pytest

from benchmarks import serving_experiments
from benchmarks.serving_experiments import (
    BARE,
    HTTP,
    Sizes,
    against_static_batches,
    equal_streams,
    long_prompt,
    poisson_arrivals,
)
from benchmarks.traffic import Request, Timeline

SIZES = Sizes(
    rounds=2,
    vocab_size=1_000,
    requests={4: 6},
    streams=3,
    prompt_tokens=5,
    stream_tokens=10,
    disturbed_streams=2,
    disturbed_tokens=100,
    undisturbed_tokens=30,
)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_experiments, "idle_pressure", lambda: 0.02)


class ScriptedServer:
    """Gives every request a token after `first` seconds and another every `step` seconds."""

    def __init__(self, first: float, step: float) -> None:
        self.first, self.step = first, step
        self.seen: list[tuple[int, int]] = []

    def __call__(self, trace: Sequence[Request], clients: int) -> list[Timeline]:
        self.seen.append((len(trace), clients))
        return [self.answer(request) for request in trace]

    def answer(self, request: Request) -> Timeline:
        start = request.arrival
        if request.after_tokens:
            start += self.first + self.step * request.after_tokens
        times = [start + self.first + self.step * number for number in range(request.tokens)]
        return Timeline(start, request.tokens, times)


def test_equal_streams_compare_http_with_everybody_else() -> None:
    http, bare = ScriptedServer(1.0, 0.1), ScriptedServer(0.1, 0.1)
    advanced: list[int] = []
    used = itertools.count(step=0.003)  # seconds, at every look
    line, cost = equal_streams(
        {BARE: bare, HTTP: http}, lambda: next(used), SIZES, lambda: advanced.append(1)
    )
    assert line.name == "3 equal streams, through HTTP / bare loop"
    assert line.value == pytest.approx(30 / 1.9)
    assert line.ratio == pytest.approx(1.0 / 1.9)
    assert (line.target, line.ok, line.cpu_pressure) == (0.9, False, 0.02)
    assert http.seen == bare.seen == [(3, 3)] * 3  # one before the rounds
    assert len(advanced) == 4
    assert (cost.unit, cost.value) == ("us/token", pytest.approx(100))


def test_poisson_arrivals_without_a_peer_give_our_latencies() -> None:
    lines = poisson_arrivals({HTTP: ScriptedServer(0.25, 0.01)}, SIZES, 4, lambda: None)
    assert [(line.name, line.unit) for line in lines] == [
        ("Poisson, 4 clients, throughput", "tokens/s"),
        ("Poisson, 4 clients, TTFT p50", "ms"),
        ("Poisson, 4 clients, TTFT p99", "ms"),
        ("Poisson, 4 clients, inter-token p50", "ms"),
        ("Poisson, 4 clients, inter-token p99", "ms"),
    ]
    assert lines[1].value == pytest.approx(250)
    assert lines[3].value == pytest.approx(10)


def test_poisson_arrivals_with_a_peer_give_ratios() -> None:
    sides = {HTTP: ScriptedServer(0.2, 0.01), "peer": ScriptedServer(0.4, 0.02)}
    lines = poisson_arrivals(sides, SIZES, 4, lambda: None)
    assert lines[1].name == "Poisson, 4 clients, TTFT p50 / peer"
    assert lines[1].ratio == pytest.approx(0.5)


def test_static_batches_have_a_target_for_throughput_alone() -> None:
    ours, static = ScriptedServer(0.1, 0.01), ScriptedServer(1.0, 0.02)
    lines = against_static_batches(ours, static, "peer", SIZES, 4, lambda: None)
    assert [line.target for line in lines] == [1.5, None, None]
    assert lines[0].ratio is not None
    assert lines[0].ratio > 1


def test_long_prompt_sets_the_slowest_gaps_against_the_median_before() -> None:
    lines = long_prompt(ScriptedServer(0.5, 0.1), SIZES, lambda: None)
    assert [line.name for line in lines] == [
        "2 streams, inter-token p50 before",
        "2 streams, inter-token p99 while 2,000 tokens arrive",
        "2 streams, p99 while 2,000 tokens arrive / p50 before",
        "TTFT of the 2,000 tokens",
    ]
    assert lines[2].value == pytest.approx(1.0)
    assert (lines[2].target, lines[2].ok) == (3.0, True)
    assert lines[3].value == pytest.approx(500)
