"""ik_llama.cpp beside us, from its wheel: its library on the GGUF files of llama.cpp's side."""

from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.peers.environment import PYTHON, is_installed
from benchmarks.peers.llama_cpp import write_model
from benchmarks.peers.worker import WorkerProcess
from benchmarks.side import Prompts


def is_present() -> bool:
    """Whether `make bench-peers` has installed it."""
    return is_installed("ik_llama_cpp")


class IkLlamaSide:
    """Steps all rows together, with flash attention, as its own batched benchmark does.

    Args:
        checkpoint: Hugging Face folder.
        quantization: F32, Q8_0 or Q4_0.
        cache: f16 or q8_0.
        threads: of every step.
    """

    def __init__(self, checkpoint: Path, quantization: str, cache: str, threads: int) -> None:
        self.label = f"ik_llama.cpp {quantization}, {cache} cache"
        self._checkpoint = checkpoint
        self._quantization = quantization
        self._arguments = (cache, str(threads))

    def __enter__(self) -> Self:
        """Write the file if it is not there, and start the process."""
        model = write_model(self._checkpoint, self._quantization)
        arguments = ("ik_llama_cpp", model, *self._arguments)
        self._worker = WorkerProcess(PYTHON, "benchmarks.peers.llama_worker", *arguments)
        self._worker.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        self._worker.__exit__(kind, error, trace)

    def decode(self, prompts: Prompts, tokens: int) -> float:
        """Tokens per second of all rows together, counted after the first token."""
        seconds: float = self._worker.ask(task="decode", prompts=prompts, tokens=tokens)
        return tokens * len(prompts) / seconds

    def prefill(self, prompt: list[int]) -> float:
        """Prompt tokens per second."""
        seconds: float = self._worker.ask(task="prefill", prompt=prompt)
        return len(prompt) / seconds
