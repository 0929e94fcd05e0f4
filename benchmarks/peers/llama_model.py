"""llama.cpp's model in a process of its own, which gives the logits of every step."""

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from benchmarks.peers.environment import LLAMA_CPP, PYTHON
from benchmarks.peers.worker import WorkerProcess
from benchmarks.stepping import Logits, Work

LIBRARY = LLAMA_CPP / "libllama.so"
_VARIABLES = {
    "PYTHONPATH": str(LLAMA_CPP),
    "LLAMA_CPP_LIB_PATH": str(LLAMA_CPP),
    # Its threads wait for one another asleep: nothing is timed, and spinning ones took up to four
    # times as long where other processes wanted the cores.
    "OMP_WAIT_POLICY": "passive",
}


def is_present() -> bool:
    """Whether `make bench-peers` has built the library."""
    return LIBRARY.is_file()


class LlamaModel:
    """A GGUF file with a cache of some rows.

    Args:
        label: its name and precisions.
        gguf: the model file.
        cache: f32, f16 or q8_0.
        rows, capacity: of the cache.
        threads: of every step.
    """

    def __init__(
        self, label: str, gguf: Path, cache: str, rows: int, capacity: int, threads: int
    ) -> None:
        self.label = label
        self._size = {"slots": rows, "capacity": capacity}
        module = "benchmarks.peers.llama_worker"
        arguments = ("llama_cpp", gguf, cache, str(threads))
        self._worker = WorkerProcess(PYTHON, module, *arguments, variables=_VARIABLES)

    def __enter__(self) -> Self:
        """Load the file."""
        self._worker.__enter__()
        self._worker.ask(task="open", **self._size)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        self._worker.__exit__(kind, error, trace)

    def clear(self) -> None:
        """Forget what all rows hold."""
        self._worker.ask(task="clear")

    def step(self, work: Work) -> dict[int, Logits]:
        """Run new tokens of some rows; give row to logits [T, V]."""
        rows = sorted(work)
        tokens = [[row, list(work[row])] for row in rows]
        count, vocab_size = self._worker.ask(task="step", work=tokens)
        content = self._worker.read(count * vocab_size * np.dtype(np.float32).itemsize)
        logits = np.frombuffer(content, np.float32).reshape(count, vocab_size)
        ends = np.cumsum([len(work[row]) for row in rows])[:-1]
        return dict(zip(rows, np.split(logits, ends), strict=True))
