"""OpenVINO GenAI beside us: continuous batching on a GGUF file, in a process of its own."""

from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.peers.environment import PYTHON, is_installed
from benchmarks.peers.llama_cpp import write_model
from benchmarks.peers.worker import WorkerProcess
from benchmarks.side import Prompts


def is_present() -> bool:
    """Whether `make bench-peers` has installed it."""
    return is_installed("openvino_genai")


class OpenVinoSide:
    """Steps of its scheduler; the cache and the arithmetic are its own choice for the processor.

    Args:
        checkpoint: Hugging Face folder.
        quantization: type of the weights in the file.
        threads: of its inference.
    """

    def __init__(self, checkpoint: Path, quantization: str, threads: int) -> None:
        self.label = f"OpenVINO GenAI {quantization}"
        self._checkpoint = checkpoint
        self._quantization = quantization
        self._threads = threads

    def __enter__(self) -> Self:
        """Write the file if it is not there, and start the process."""
        model = write_model(self._checkpoint, self._quantization)
        arguments = (model, str(self._threads))
        self._worker = WorkerProcess(PYTHON, "benchmarks.peers.openvino_worker", *arguments)
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
        """Tokens per second of all rows together, counted after every row's first token."""
        times: list[float] = self._worker.ask(prompts=prompts, tokens=tokens + 1)
        return tokens * len(prompts) / (times[-1] - times[1])

    def prefill(self, prompt: list[int]) -> float:
        """Prompt tokens per second."""
        times: list[float] = self._worker.ask(prompts=[prompt], tokens=1)
        return len(prompt) / (times[1] - times[0])
