"""transformers' generate beside us, in this process."""

import time
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from transformers import LlamaForCausalLM, StoppingCriteria, StoppingCriteriaList

from benchmarks.side import Prompts


class TokenClock(StoppingCriteria):
    """Notes the time of every token that generate chooses, and never stops it."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        """Note the time."""
        self.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


class TransformersSide:
    """Generates in static batches of equal lengths.

    Args:
        checkpoint: Hugging Face folder.
        dtype: float32 or bfloat16.
        threads: torch's.
    """

    def __init__(self, checkpoint: Path, dtype: str, threads: int) -> None:
        self.label = f"transformers {dtype}"
        self._checkpoint = checkpoint
        self._dtype = dtype
        self._threads = threads

    def __enter__(self) -> Self:
        """Load the model."""
        torch.set_num_threads(self._threads)
        self._model = LlamaForCausalLM.from_pretrained(self._checkpoint, dtype=self._dtype).eval()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the model go."""
        del self._model

    def decode(self, prompts: Prompts, tokens: int) -> float:
        """Tokens per second of all rows together, counted after the first token."""
        times = self._generate(prompts, tokens + 1)
        return tokens * len(prompts) / (times[-1] - times[1])

    def prefill(self, prompt: list[int]) -> float:
        """Prompt tokens per second."""
        times = self._generate([prompt], 1)
        return len(prompt) / (times[1] - times[0])

    def _generate(self, prompts: Prompts, tokens: int) -> list[float]:
        """Generate greedily; give the time of the start and of every token."""
        clock = TokenClock()
        started = time.perf_counter()
        with torch.inference_mode():
            self._model.generate(
                torch.tensor(prompts),
                attention_mask=torch.ones(len(prompts), len(prompts[0]), dtype=torch.long),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                stopping_criteria=StoppingCriteriaList([clock]),
            )
        return [started, *clock.times]
