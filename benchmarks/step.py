"""How much of an engine step is Python: everything but the run of the graph.

    .venv/bin/python -m benchmarks.step [--quick] [--json] [--spinning] [--precision int8-kv8]

Scheduling, filling the inputs, sampling, detokenising and bookkeeping of rows that decode.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks.engine import PROMPT_TOKENS
from benchmarks.lone_side import lone_side, side_options, side_settings
from benchmarks.report import PressureMeter, Result, publish
from serving.engine.llm_engine import LLMEngine
from serving.engine.sampling_params import SamplingParams

Prompts = list[list[int]]

_GREEDY: dict[str, Any] = {"temperature": 0.0}
_SAMPLED: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95}


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of batch; a target is for the microseconds or for the share."""

    name: str
    rows: int
    sampling: dict[str, Any]
    max_microseconds: float | None = None
    max_share: float | None = None


CASES = (
    Case("greedy, 1 row", 1, _GREEDY, max_microseconds=30.0),
    Case("greedy, 32 rows", 32, _GREEDY),
    Case("top_p 0.95, 1 row", 1, _SAMPLED),
    Case("top_p 0.95, 32 rows", 32, _SAMPLED, max_share=0.05),
)


class RunClock:
    """Adds up what an engine spends in its session.

    Attributes:
        seconds: by the clock on the wall.
        thread_seconds: of processor time, of the thread that steps the engine.
    """

    def __init__(self, engine: LLMEngine) -> None:
        self.seconds = 0.0
        self.thread_seconds = 0.0
        # The one place where the graph runs is private, and only benchmarks look at it.
        for session in engine._model_runner.sessions:
            session.run_with_iobinding = partial(self._timed, session.run_with_iobinding)

    def _timed(self, run: Callable[..., None], *arguments: object) -> None:
        started, thread_started = time.perf_counter(), time.thread_time()
        run(*arguments)
        self.thread_seconds += time.thread_time() - thread_started
        self.seconds += time.perf_counter() - started


def outside_run(
    engine: LLMEngine, clock: RunClock, case: Case, prompts: Prompts, steps: int
) -> tuple[float, float]:
    """Seconds of a step outside the graph's run, and their share of the step.

    Outside the run it is the thread's processor time that counts: nothing waits there, and another
    process that takes the processor away does not show.

    Args:
        engine: without requests.
        clock: of that engine.
        case: how the rows are sampled.
        prompts: one per row.
        steps: to take the mean of.
    """
    for number, prompt in enumerate(prompts):
        params = SamplingParams(max_tokens=steps + 64, ignore_eos=True, seed=7, **case.sampling)
        engine.add_request(str(number), prompt, params)
    begun: set[str] = set()
    while len(begun) < len(prompts):
        begun.update(output.request_id for output in engine.step())
    engine.step()  # its shape is bound now
    run, run_thread, started = clock.seconds, clock.thread_seconds, time.thread_time()
    for _ in range(steps):
        engine.step()
    outside = time.thread_time() - started - (clock.thread_seconds - run_thread)
    whole = outside + clock.seconds - run
    for number in range(len(prompts)):
        engine.abort_request(str(number))
    engine.step()
    return outside / steps, outside / whole


def measure(
    engine: LLMEngine, rounds: int, steps: int, vocab_size: int, advance: Callable[[], None]
) -> list[Result]:
    """All cases, round by round."""
    random = np.random.default_rng(0)
    clock = RunClock(engine)
    seconds: dict[str, list[float]] = {case.name: [] for case in CASES}
    shares: dict[str, list[float]] = {case.name: [] for case in CASES}
    for _ in range(rounds):
        for case in CASES:
            prompts = random.integers(3, vocab_size, (case.rows, PROMPT_TOKENS)).tolist()
            outside, share = outside_run(engine, clock, case, prompts, steps)
            seconds[case.name].append(outside * 1e6)
            shares[case.name].append(share)
            advance()
    results = []
    for case in CASES:
        title = f"{case.name}: Python outside run"
        results += [
            Result.of_values(title, "us", seconds[case.name], at_most=case.max_microseconds),
            Result.of_values(
                f"{title}, of the step", "share", shares[case.name], at_most=case.max_share
            ),
        ]
    return results


def main() -> None:
    """Measure and print."""
    arguments = side_options("What of an engine step is not the graph.").parse_args()
    rounds, steps = (2, 32) if arguments.quick else (5, 64)
    with (
        Progress(console=Console(stderr=True), transient=True) as progress,
        lone_side(arguments) as side,
    ):
        bar = progress.add_task("measuring", total=rounds * len(CASES))
        pressure = PressureMeter()
        vocab_size = side.engine.manifest.vocab_size
        results = measure(side.engine, rounds, steps, vocab_size, lambda: progress.advance(bar))
        read = pressure.read()
    publish("step", results, arguments, read, side_settings(arguments))


if __name__ == "__main__":
    main()
