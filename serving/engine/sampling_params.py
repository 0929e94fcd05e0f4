"""What a request asks of the sampler and when its answer ends. No defaults of the API live here."""

import math
from dataclasses import dataclass

from everloop.errors import DataError

# Below this a softmax is an argmax in float32, and dividing by it would overflow.
_GREEDY_TEMPERATURE = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the tokens of one request are chosen.

    Attributes:
        max_tokens: at most this many new tokens.
        temperature: divides the logits; 0 takes the most probable token.
        top_k: only the k most probable tokens; None for all.
        top_p: only the smallest set of most probable tokens that holds this share, applied after
            temperature and top_k.
        seed: the same seed gives the same tokens whatever else runs; None draws a fresh one.
        stop: texts that end the answer; they are not part of it.
        ignore_eos: go on past the model's end tokens.

    Raises:
        DataError: a value is out of range.
    """

    max_tokens: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise DataError(f"max_tokens must be at least 1, got {self.max_tokens}.")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise DataError(f"temperature must be 0 or more, got {self.temperature}.")
        if self.top_k is not None and self.top_k < 1:
            raise DataError(f"top_k must be at least 1, got {self.top_k}. Leave it out for all.")
        if not 0 < self.top_p <= 1:
            raise DataError(f"top_p must be above 0 and at most 1, got {self.top_p}.")
        if not all(self.stop):
            raise DataError("stop holds an empty text, which would end every answer at once.")

    @property
    def is_greedy(self) -> bool:
        """Whether the most probable token is the only one that can be chosen."""
        return self.temperature < _GREEDY_TEMPERATURE or self.top_k == 1
