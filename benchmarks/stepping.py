"""Our graph and a peer's model, driven alike: new tokens of some rows in, their logits out.

Whatever is compared runs the same few lines here, so that a difference comes from the model. Our
side is the graph as the engine runs it, without the engine's scheduler and sampler.

Shapes: N windows, W tokens of one, T new tokens, V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from training.export.graph import MODEL_FILE
from training.export.session import ReferenceRunner, open_session

Logits = NDArray[np.float32]
Work = Mapping[int, Sequence[int]]


class SteppedModel(Protocol):
    """A loaded model with a cache of some rows.

    Attributes:
        label: its name and precisions.
    """

    label: str

    def clear(self) -> None:
        """Forget what all rows hold."""

    def step(self, work: Work) -> dict[int, Logits]:
        """Run new tokens of some rows; give row to logits [T, V]."""

    def __enter__(self) -> Self:
        """Load it."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let it go."""


class GraphModel:
    """The graph of a model version.

    Args:
        label: its name and precisions.
        version: model version folder.
        rows, capacity: of the cache.
        threads: of onnxruntime.
    """

    def __init__(self, label: str, version: Path, rows: int, capacity: int, threads: int) -> None:
        self.label = label
        self._version = version
        self._size = {"slots": rows, "capacity": capacity}
        self._threads = threads

    def __enter__(self) -> Self:
        """Load the graph."""
        session = open_session(self._version / MODEL_FILE, self._threads)
        self._runner = ReferenceRunner(session, **self._size)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drop it."""
        del self._runner

    def clear(self) -> None:
        """Forget what all rows hold."""
        self._runner.clear()

    def step(self, work: Work) -> dict[int, Logits]:
        """Run new tokens of some rows; give row to logits [T, V]."""
        return self._runner.step(work)


def read_in_chunks(
    model: SteppedModel, windows: NDArray[np.int64], first: int
) -> Iterator[tuple[int, slice, Logits]]:
    """Read windows [N, W] as prompts are read: each in one step.

    Yields:
        Number of the window, its places from `first` on, and their logits.
    """
    for number, window in enumerate(windows):
        model.clear()
        yield number, slice(0, len(window) - first), model.step({0: window.tolist()})[0][first:]


def read_token_by_token(
    model: SteppedModel, windows: NDArray[np.int64], first: int, rows: int
) -> Iterator[tuple[int, slice, Logits]]:
    """Read windows [N, W] as answers are decoded: a token of each of `rows` windows a step.

    Yields:
        Number of the window, a place counted from `first`, and its logits.
    """
    for start in range(0, len(windows), rows):
        model.clear()
        batch = windows[start : start + rows]
        for place in range(batch.shape[1]):
            logits = model.step({row: [int(token)] for row, token in enumerate(batch[:, place])})
            if place >= first:
                at = slice(place - first, place - first + 1)
                yield from ((start + row, at, values) for row, values in logits.items())
