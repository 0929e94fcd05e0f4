"""What a request asks of the sampler and when its answer ends. No defaults of the API live here."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from everloop.errors import DataError

# Below this a softmax is an argmax in float32, and dividing by it would overflow.
_GREEDY_TEMPERATURE = 1e-5

# Limits of the OpenAI API, where it has them.
_RANGES: Mapping[str, tuple[float, float]] = {
    "min_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "logprobs": (0, 20),
    "prompt_logprobs": (0, 20),
    # Far beyond any use, and far from where float32 ends: 1e-300 would be 0 there.
    "repetition_penalty": (1e-6, 1e6),
}
_MAX_BIAS = 100
MAX_STOPS = 4  # Source: OpenAI's specification of stop.
MAX_STOP_LENGTH = 256  # characters; the text of an answer is held back for as many

GrammarKind = Literal["json_object", "json_schema", "regex", "lark"]


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    """What the whole answer must be.

    Attributes:
        kind: any JSON object, JSON of a schema, a match of a regular expression, or a text of a
            grammar in Lark's notation.
        text: the schema, expression or grammar; empty for json_object.
        compiled: what a compiler made of it, once it has; as long as a request lives, so does this.
    """

    kind: GrammarKind
    text: str = ""
    compiled: object | None = field(default=None, init=False, compare=False, repr=False)

    def remember(self, compiled: object) -> None:
        """Keep what was compiled; no part of the value."""
        object.__setattr__(self, "compiled", compiled)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the tokens of one request are chosen.

    Attributes:
        max_tokens: at most this many new tokens.
        min_tokens: nothing but the end of a structured output ends the answer before so many.
        temperature: divides the logits; 0 takes the most probable token.
        top_k: only the k most probable tokens; None for all.
        top_p: only the smallest set of most probable tokens that holds this share, applied after
            temperature and top_k.
        min_p: only tokens with at least this share of the most probable one's probability, applied
            after top_p.
        repetition_penalty: divides the positive and multiplies the negative logits of every token
            of prompt and answer.
        frequency_penalty: taken from a token's logit for each time that the answer holds it.
        presence_penalty: taken once from the logit of every token that the answer holds.
        logit_bias: added to the logits of these tokens.
        seed: the same seed gives the same tokens whatever else runs; None draws a fresh one.
        stop: texts that end the answer, MAX_STOPS at most, each of MAX_STOP_LENGTH characters at
            most; they are not part of it.
        stop_token_ids: tokens that end the answer as the model's end tokens do; they have no text.
        ignore_eos: go on past the model's end tokens.
        structured: what the whole answer must be; None for any text.
        logprobs: give the logarithm of the probability of every new token, and of this many of the
            most probable ones, as the model has them before anything above; None for none.
        prompt_logprobs: the same for the tokens of the prompt.

    Raises:
        DataError: a value is out of range.
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    structured: StructuredOutput | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        self._check_lengths()
        self._check_distribution()
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise DataError(f"{name} must be between {low} and {high}, got {value}.")
        for token_id, bias in self.logit_bias.items():
            if not -_MAX_BIAS <= bias <= _MAX_BIAS:
                raise DataError(
                    f"logit_bias must be between {-_MAX_BIAS} and {_MAX_BIAS}, got {bias} for "
                    f"token {token_id}."
                )

    @property
    def is_greedy(self) -> bool:
        """Whether the most probable token is the only one that can be chosen."""
        return self.temperature < _GREEDY_TEMPERATURE or self.top_k == 1

    @property
    def has_penalties(self) -> bool:
        """Whether the tokens before a token change its logits."""
        return (
            self.repetition_penalty != 1
            or self.frequency_penalty != 0
            or self.presence_penalty != 0
        )

    @property
    def can_reuse_prefix(self) -> bool:
        """Whether the prompt may start from cached state: without a run there are no logits."""
        return self.prompt_logprobs is None

    def check_vocabulary(self, vocab_size: int) -> None:
        """Refuse token ids that a model of so many tokens does not have.

        Raises:
            DataError: names the field.
        """
        for name, token_ids in (
            ("logit_bias", self.logit_bias),
            ("stop_token_ids", self.stop_token_ids),
        ):
            for token_id in token_ids:
                if not 0 <= token_id < vocab_size:
                    raise DataError(
                        f"{name} names token {token_id}; the model knows 0 to {vocab_size - 1}."
                    )

    def _check_lengths(self) -> None:
        if self.max_tokens < 1:
            raise DataError(f"max_tokens must be at least 1, got {self.max_tokens}.")
        if not 0 <= self.min_tokens <= self.max_tokens:
            raise DataError(
                f"min_tokens must be between 0 and max_tokens ({self.max_tokens}), got "
                f"{self.min_tokens}."
            )
        if not all(self.stop):
            raise DataError("stop holds an empty text, which would end every answer at once.")
        if len(self.stop) > MAX_STOPS:
            raise DataError(f"stop has {len(self.stop)} texts, the limit is {MAX_STOPS}.")
        longest = max(map(len, self.stop), default=0)
        if longest > MAX_STOP_LENGTH:
            raise DataError(
                f"stop has a text of {longest} characters, the limit is {MAX_STOP_LENGTH}."
            )

    def _check_distribution(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise DataError(f"temperature must be 0 or more, got {self.temperature}.")
        if self.top_k is not None and self.top_k < 1:
            raise DataError(f"top_k must be at least 1, got {self.top_k}. Leave it out for all.")
        if not 0 < self.top_p <= 1:
            raise DataError(f"top_p must be above 0 and at most 1, got {self.top_p}.")
