"""onnxruntime-genai beside us: its own graph of the same weights, in a process of its own."""

import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.peers.environment import PYTHON, is_installed, model_folder, run_module
from benchmarks.peers.worker import WorkerProcess
from benchmarks.side import Prompts

_BUILDER = "onnxruntime_genai.models.builder"


def is_present() -> bool:
    """Whether `make bench-peers` has installed it."""
    return is_installed("onnxruntime_genai")


def build_model(checkpoint: Path, precision: str) -> Path:
    """Convert a checkpoint with its own builder, once.

    Args:
        checkpoint: Hugging Face folder.
        precision: fp32, int8 or int4.
    """
    target = model_folder(checkpoint) / f"genai-{precision}"
    if not target.is_dir():
        partial = target.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        run_module(
            _BUILDER,
            *("-i", checkpoint, "-o", partial, "-p", precision, "-e", "cpu"),
            *("-c", target.parent / "cache", "--extra_options", "hf_token=false"),
        )
        partial.rename(target)
    return target


class GenaiSide:
    """Generates in static batches of equal lengths.

    Args:
        checkpoint: Hugging Face folder.
        precision: fp32, int8 or int4.
        threads: of its session.
    """

    def __init__(self, checkpoint: Path, precision: str, threads: int) -> None:
        self.label = f"onnxruntime-genai {precision}"
        self._checkpoint = checkpoint
        self._precision = precision
        self._threads = threads

    def __enter__(self) -> Self:
        """Build the model if it is not there, and start the process."""
        model = build_model(self._checkpoint, self._precision)
        arguments = (model, str(self._threads))
        self._worker = WorkerProcess(PYTHON, "benchmarks.peers.genai_worker", *arguments)
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
        times: list[float] = self._worker.ask(task="generate", prompts=prompts, tokens=tokens + 1)
        return tokens * len(prompts) / (times[-1] - times[1])

    def prefill(self, prompt: list[int]) -> float:
        """Prompt tokens per second."""
        times: list[float] = self._worker.ask(task="generate", prompts=[prompt], tokens=1)
        return len(prompt) / (times[1] - times[0])

    def serve_trace(
        self, arrivals: list[float], prompts: Prompts, tokens: list[int], max_rows: int
    ) -> list[list[float]]:
        """Serve requests as they arrive; give the seconds at which each token was there."""
        times: list[list[float]] = self._worker.ask(
            task="trace", arrivals=arrivals, prompts=prompts, tokens=tokens, max_rows=max_rows
        )
        return times
