"""Speed of graphs side by side on this machine, to choose between precisions.

Not a benchmark of the engine: one graph after the other runs a few steps, round after round. Of all
steps the tenth part is taken that ran best: a neighbour can only slow a step down, and leaves some
alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress

from training.export.session import ReferenceRunner, open_session

DECODE_ROWS = (1, 8)
_ROUNDS = 9
_CONTEXT = 128  # tokens in the cache of a decoding row; of the chunk that a prefill adds
_SECONDS = 0.03  # of one graph's steps of one kind in one round
_BEST_SHARE = 0.1

_Work = Mapping[int, Sequence[int]]


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
    works: list[_Work] = [{slot: [0] for slot in range(rows)} for rows in DECODE_ROWS]
    works.append({0: [0] * context})
    seconds: list[list[list[float]]] = [[[] for _ in works] for _ in graphs]
    task = progress.add_task("Speed of the precisions", total=_ROUNDS) if progress else None
    for _ in range(_ROUNDS):
        for graph, found in zip(graphs, seconds, strict=True):
            _run(graph, works, context, found)
        if progress is not None and task is not None:
            progress.advance(task)
    return [
        _speed([np.quantile(times, _BEST_SHARE) for times in found], context) for found in seconds
    ]


def _run(graph: Path, works: Sequence[_Work], context: int, found: list[list[float]]) -> None:
    """Open a graph, warm it up, and add the seconds of some steps of each kind."""
    runner = ReferenceRunner(open_session(graph), slots=max(DECODE_ROWS), capacity=2 * context)
    for work, times in zip(works, found, strict=True):
        runner.lengths[:] = context - 1 if len(work[0]) == 1 else 0
        once = min(runner.time_step(work, 2))
        times += runner.time_step(work, max(2, int(_SECONDS / once)))


def _speed(seconds: Sequence[float], context: int) -> Speed:
    *decode, prefill = map(float, seconds)
    return Speed(
        decode={rows: rows / step for rows, step in zip(DECODE_ROWS, decode, strict=True)},
        prefill=context / prefill,
    )
