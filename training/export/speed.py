"""Speed of graphs side by side on this machine, to choose between precisions.

Not a benchmark of the engine: one graph after the other runs a few steps, round after round. Of all
steps the tenth part is taken that ran best: a neighbour can only slow a step down, and leaves some
alone. A graph that is far behind in the first rounds is not run again: it will not be chosen, and
opening it costs more than the steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress

from training.export.session import ReferenceRunner, open_session

DECODE_ROWS = (1, 8)
_ROUNDS = 5
_CHUNK = 128  # tokens that a prefill adds at once
# Tokens in the cache of a decoding row, and before the chunk of a prefill: an int8 cache costs a
# chunk the more, the more of it there is to read.
_DECODE_CONTEXT = 128
_PREFILL_CONTEXT = 512
_FIRST_ROUNDS = 2  # after which a graph may fall out
_FAR_BEHIND = 1.5  # times the fastest's seconds, in the geometric mean over the kinds of steps
_SECONDS = 0.03  # of one graph's steps of one kind in one round
_BEST_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second.

    Attributes:
        decode: of all rows together, by their number.
        prefill: of one row, in the middle of a long prompt.
    """

    decode: dict[int, float]
    prefill: float


@dataclass(frozen=True, slots=True)
class _Run:
    """One batch: slot to new tokens, and the cached tokens of each row before it."""

    work: Mapping[int, Sequence[int]]
    context: int


def measure_speeds(
    graphs: Sequence[Path],
    *,
    max_model_len: int,
    max_query_len: int,
    progress: Progress | None = None,
) -> list[Speed]:
    """Measure every graph in turn; only one is loaded at a time.

    Args:
        graphs: of one model.
        max_model_len: tokens that a row may hold.
        max_query_len: tokens that a row may add at once.
        progress: shows the rounds.
    """
    chunk = min(_CHUNK, max_query_len, max_model_len)
    runs = [
        _Run({slot: [0] for slot in range(rows)}, min(_DECODE_CONTEXT, max_model_len - 1))
        for rows in DECODE_ROWS
    ]
    runs.append(_Run({0: [0] * chunk}, min(_PREFILL_CONTEXT, max_model_len - chunk)))
    seconds: list[list[list[float]]] = [[[] for _ in runs] for _ in graphs]
    task = progress.add_task("Speed of the precisions", total=_ROUNDS) if progress else None
    running = list(range(len(graphs)))
    for number in range(_ROUNDS):
        for place in running:
            _time(graphs[place], runs, seconds[place])
        if number + 1 == _FIRST_ROUNDS:
            running = _near_the_fastest(seconds)
        if progress is not None and task is not None:
            progress.advance(task)
    return [_speed(list(map(_best, each)), chunk) for each in seconds]


def _near_the_fastest(seconds: Sequence[Sequence[Sequence[float]]]) -> list[int]:
    """Places of the graphs that may still be the fastest."""
    best = np.array([list(map(_best, each)) for each in seconds])  # (graphs, kinds)
    behind = np.exp(np.log(best / best.min(axis=0)).mean(axis=1))
    return [place for place, ratio in enumerate(behind) if ratio <= _FAR_BEHIND * behind.min()]


def _best(times: Sequence[float]) -> float:
    return float(np.quantile(times, _BEST_SHARE))


def _time(graph: Path, runs: Sequence[_Run], found: list[list[float]]) -> None:
    """Open a graph, warm it up, and add the seconds of some steps of each kind."""
    capacity = max(run.context + len(run.work[0]) for run in runs)
    runner = ReferenceRunner(open_session(graph), slots=max(DECODE_ROWS), capacity=capacity)
    for run, times in zip(runs, found, strict=True):
        runner.lengths[:] = 0
        runner.lengths[: len(run.work)] = run.context
        once = min(runner.time_step(run.work, 2))
        times += runner.time_step(run.work, max(2, int(_SECONDS / once)))


def _speed(seconds: Sequence[float], chunk: int) -> Speed:
    *decode, prefill = seconds
    return Speed(
        decode={rows: rows / step for rows, step in zip(DECODE_ROWS, decode, strict=True)},
        prefill=chunk / prefill,
    )
