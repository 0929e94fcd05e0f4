"""llama.cpp beside us: its own benchmark programs on a GGUF file of the same weights.

Each measurement is one run of a program, which loads the file and warms up before it counts.
"""

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.peers.environment import LLAMA_CPP, model_folder, run_module
from benchmarks.side import Prompts

BENCH = LLAMA_CPP / "llama-bench"
BATCHED_BENCH = LLAMA_CPP / "llama-batched-bench"
SERVER = LLAMA_CPP / "llama-server"
QUANTIZE = LLAMA_CPP / "llama-quantize"

_TIMEOUT_SECONDS = 300
_TRIES = 3  # one run in sixty ended well without its output: its log is written by a thread


def is_present() -> bool:
    """Whether `make bench-peers` has built it."""
    return BENCH.is_file() and BATCHED_BENCH.is_file()


def write_model(checkpoint: Path, quantization: str) -> Path:
    """Convert a checkpoint to GGUF, once.

    Args:
        checkpoint: Hugging Face folder.
        quantization: F32, Q8_0 or Q4_0.
    """
    target = model_folder(checkpoint) / f"{quantization}.gguf"
    if not target.is_file():
        partial = target.with_suffix(".partial")
        if quantization == "Q8_0":  # as its users make it
            _quantize(write_model(checkpoint, "F32"), partial, quantization)
        else:
            run_module("benchmarks.peers.gguf_writer", checkpoint, partial, quantization)
        partial.rename(target)
    return target


def _quantize(source: Path, target: Path, quantization: str) -> None:
    command = [QUANTIZE, source, target, quantization]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"llama-quantize failed ({done.returncode}): {done.stderr[-500:]}")


def cache_options(cache: str) -> list[str]:
    """Options for the type of the cache; only flash attention reads a quantized one."""
    return [] if cache == "f16" else ["-ctk", cache, "-ctv", cache, "-fa", "on"]


class LlamaCppSide:
    """llama-bench for one row, llama-batched-bench for more.

    Args:
        checkpoint: Hugging Face folder.
        quantization: F32, Q8_0 or Q4_0.
        cache: f16, its default, or q8_0.
        threads: of every run.
    """

    def __init__(self, checkpoint: Path, quantization: str, cache: str, threads: int) -> None:
        self.label = f"llama.cpp {quantization}, {cache} cache"
        self._checkpoint = checkpoint
        self._quantization = quantization
        self._options = ["-t", str(threads), *cache_options(cache)]

    def __enter__(self) -> Self:
        """Write the file if it is not there."""
        self._model = write_model(self._checkpoint, self._quantization)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is held."""

    def decode(self, prompts: Prompts, tokens: int) -> float:
        """Tokens per second of all rows together, after a prompt of the same length."""
        rows, length = len(prompts), len(prompts[0])
        if rows == 1:  # llama-bench is the faster of the two here
            return self._bench("-p", "0", "-n", str(tokens), "-d", str(length))
        run = self._run(
            BATCHED_BENCH,
            *("-c", str(rows * (length + tokens)), "-npp", str(length), "-ntg", str(tokens)),
            *("-npl", str(rows), "--output-format", "jsonl"),
        )
        return float(run["speed_tg"])

    def prefill(self, prompt: list[int]) -> float:
        """Prompt tokens per second."""
        return self._bench("-p", str(len(prompt)), "-n", "0")

    def _bench(self, *options: str) -> float:
        return float(self._run(BENCH, *options, "-r", "1", "-o", "jsonl")["avg_ts"])

    def _run(self, program: Path, *options: str) -> dict[str, Any]:
        """Run a program and read the one JSON line of its output."""
        command = [str(program), "-m", str(self._model), *self._options, *options]
        for _ in range(_TRIES):
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
            )
            lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
            if lines and not done.returncode:
                content: dict[str, Any] = json.loads(lines[-1])
                return content
        raise RuntimeError(f"{program.name} failed ({done.returncode}): {done.stderr[-500:]}")
