"""Our own engine as a side of a comparison: exported, loaded, stepped in this process."""

import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.random_model import export_version
from benchmarks.side import Prompts
from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine
from serving.engine.sampling_params import SamplingParams
from training.export import ExportConfig

WEIGHTS_FILE = "model.onnx.data"


class EverloopSide:
    """Continuous batching; equal lengths use it no further than a static batch would.

    Args:
        checkpoint: Hugging Face folder.
        label: of the precisions.
        export: the precisions.
        config: of the engine.
    """

    def __init__(
        self, checkpoint: Path, label: str, export: ExportConfig, config: EngineConfig
    ) -> None:
        self.label = label
        self._checkpoint = checkpoint
        self._export = export
        self._config = config

    def __enter__(self) -> Self:
        """Export and load."""
        self._folder = Path(tempfile.mkdtemp())
        version = export_version(self._checkpoint, self._folder, self._export)
        self.weight_bytes = (version / WEIGHTS_FILE).stat().st_size
        self.engine = LLMEngine.load(version, self._config)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drop the engine and the version."""
        del self.engine
        shutil.rmtree(self._folder)

    def decode(self, prompts: Prompts, tokens: int) -> float:
        """Tokens per second of all rows together, counted after the last row's first token.

        Raises:
            RuntimeError: a row ended before the last token was counted.
        """
        # Rows that got their first token early must still run when the last one is counted.
        params = SamplingParams(max_tokens=tokens + 64, temperature=0.0, ignore_eos=True)
        for number, prompt in enumerate(prompts):
            self.engine.add_request(str(number), prompt, params)
        begun: set[str] = set()
        while len(begun) < len(prompts):
            begun.update(output.request_id for output in self.engine.step())
        started = time.perf_counter()
        generated = 0
        for _ in range(tokens):
            generated += sum(len(output.token_ids) for output in self.engine.step())
        seconds = time.perf_counter() - started
        for number in range(len(prompts)):
            self.engine.abort_request(str(number))
        self.engine.step()
        if generated < tokens * len(prompts):
            raise RuntimeError(f"{generated} tokens came of {len(prompts)} rows in {tokens} steps.")
        return generated / seconds

    def prefill(self, prompt: list[int]) -> float:
        """Prompt tokens per second."""
        params = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
        started = time.perf_counter()
        self.engine.generate([prompt], params)
        return len(prompt) / (time.perf_counter() - started)
