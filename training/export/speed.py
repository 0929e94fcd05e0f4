"""Speed of graphs side by side on this machine, to choose between precisions.

Not a benchmark of the engine: one graph after the other runs a few steps, round after round, and
the lower quartiles of their times are compared: a neighbour can only slow a step down.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress

from training.export.session import ReferenceRunner, open_session

DECODE_ROWS = (1, 8)
_ROUNDS = 9
_CONTEXT = 128  # tokens in the cache of a decoding row; of the chunk that a prefill adds
_SECONDS = 0.02  # of one measurement, at least


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second.

    Attributes:
        decode: of all rows together, by their number.
        prefill: of one row's first chunk.
    """

    decode: dict[int, float]
    prefill: float


def measure_speeds(
    graphs: Sequence[Path], max_chunk: int, *, progress: Progress | None = None
) -> list[Speed]:
    """Measure every graph in turn; only one is loaded at a time.

    Args:
        graphs: of one model.
        max_chunk: tokens that a row may hold and add at once.
        progress: shows the rounds.
    """
    context = min(_CONTEXT, max_chunk)
    works = [{slot: [0] for slot in range(rows)} for rows in DECODE_ROWS]
    works.append({0: [0] * context})
    seconds = np.zeros((_ROUNDS, len(graphs), len(works)))
    task = progress.add_task("Speed of the precisions", total=_ROUNDS) if progress else None
    for turn in range(_ROUNDS):
        for number, graph in enumerate(graphs):
            runner = ReferenceRunner(
                open_session(graph), slots=max(DECODE_ROWS), capacity=2 * context
            )
            for place, work in enumerate(works):
                runner.lengths[:] = context - 1 if len(work[0]) == 1 else 0
                seconds[turn, number, place] = _time(runner, work)
        if progress is not None and task is not None:
            progress.advance(task)
    *decode, prefill = np.quantile(seconds, 0.25, axis=0).T
    return [
        Speed(
            decode={
                rows: rows / float(times[number])
                for rows, times in zip(DECODE_ROWS, decode, strict=True)
            },
            prefill=context / float(prefill[number]),
        )
        for number in range(len(graphs))
    ]


def _time(runner: ReferenceRunner, work: dict[int, list[int]]) -> float:
    """Seconds of one step, after two that warm up."""
    once = runner.time_step(work, 2)
    return runner.time_step(work, max(2, int(_SECONDS / once)))
