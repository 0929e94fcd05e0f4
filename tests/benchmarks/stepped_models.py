"""A model small enough to know by heart, for whatever drives models step by step."""

from types import TracebackType
from typing import Self

import numpy as np

from benchmarks.stepping import Logits, Work


class CountingModel:
    """After a token comes the next number; how sure it is falls with what its row holds.

    Attributes:
        works: of every step since it was made; None where it was cleared.
    """

    def __init__(self, label: str, vocab_size: int, noise: float = 0.0) -> None:
        self.label = label
        self.works: list[dict[int, list[int]] | None] = []
        self._vocab_size = vocab_size
        self._noise = noise
        self._lengths: dict[int, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def clear(self) -> None:
        self._lengths = {}
        self.works.append(None)

    def step(self, work: Work) -> dict[int, Logits]:
        self.works.append({row: list(tokens) for row, tokens in work.items()})
        logits = {}
        for row, tokens in work.items():
            values = np.zeros((len(tokens), self._vocab_size), np.float32)
            for place, token in enumerate(tokens):
                self._lengths[row] = self._lengths.get(row, 0) + 1
                values[place, (token + 1) % self._vocab_size] = 1 + 5 / self._lengths[row]
                values[place, 0] = self._noise
            logits[row] = values
        return logits
