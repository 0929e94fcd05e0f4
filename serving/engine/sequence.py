"""One request in the engine: its tokens, its place in the cache, and what others see of it."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from everloop.errors import DataError, EngineError
from serving.engine.detokenizer import Detokenizer
from serving.engine.draft_table import DraftTable
from serving.engine.logits_processor import LogitsProcessor
from serving.engine.sampling_params import SamplingParams

FinishReason = Literal["stop", "length", "abort", "timeout", "error"]


class SequenceStatus(Enum):
    """A sequence waits for a slot, runs in one, and has given it back."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """When things happened to a request, by time.monotonic(); None for what never did."""

    arrival: float
    scheduled: float | None = None
    first_token: float | None = None
    finished: float | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural logarithms of probabilities at one position, by the model's raw logits.

    Attributes:
        token_id, logprob: the token that stands there.
        top: the most probable tokens with theirs, by falling probability.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(slots=True)  # made for every token: frozen, it takes five times as long to make
class RequestOutput:
    """What one step added to one request. Nobody changes it.

    Attributes:
        text: new text, whole characters only; may be empty while the text could become a stop.
        token_ids: the new tokens, more than one when drafts were accepted; an end token is among
            them though it has no text.
        finish_reason: None until the last output; `timeout` when the request's deadline passed.
        times, num_cached_tokens: set on the last output; the tokens of the prompt that were reused
            from an earlier request.
        logprobs: of every new token, when asked for.
        prompt_logprobs: of every token of the prompt, when asked for, on the first output; None
            for the first token, which nothing predicts.
        embedding: on the only output of a request for one; (D,).
        error: on a last output with the reason `error`, if the request alone could not go on.
    """

    request_id: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    times: RequestTimes | None = None
    num_cached_tokens: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()
    embedding: NDArray[np.float32] | None = field(default=None, compare=False)
    error: DataError | EngineError | None = None


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """A finished generation, offline.

    Attributes:
        logprobs, prompt_logprobs: as in RequestOutput. They are not compared: beside other
            requests the last digits differ.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprobs, ...] = field(default=(), compare=False)
    prompt_logprobs: tuple[TokenLogprobs | None, ...] = field(default=(), compare=False)

    @classmethod
    def join(cls, outputs: list[RequestOutput]) -> "GenerationResult":
        """Put the outputs of one request, of all steps, together."""
        return cls(
            "".join(output.text for output in outputs),
            tuple(token_id for output in outputs for token_id in output.token_ids),
            outputs[-1].finish_reason or "error",
            tuple(each for output in outputs for each in output.logprobs),
            tuple(each for output in outputs for each in output.prompt_logprobs),
        )


@dataclass(slots=True, eq=False)
class Sequence:
    """A request on its way through the engine.

    Attributes:
        token_ids: the prompt, then the completion.
        num_computed_tokens: how many of token_ids have their state in the slot.
        num_cached_tokens: how many of those came from an earlier request.
        slot: the row of the state tensors that it owns while it runs.
        seed: of its random numbers, set whether or not the request named one.
        tenant: who asked for it; tenants share the engine fairly.
        deadline: by time.monotonic(); None for never.
        logits_processor: None when its parameters leave all logits as they are.
        draft_table: of speculative decoding, from its first draft on.
        hidden_sum: of an embedding, (D,): over the tokens that have run.
        error: why it cannot go on; the step that runs it ends it.
    """

    seq_id: str
    token_ids: list[int]
    params: SamplingParams
    seed: int
    detokenizer: Detokenizer
    arrival_time: float
    tenant: str = ""
    deadline: float | None = None
    num_prompt_tokens: int = field(init=False)
    num_computed_tokens: int = 0
    num_cached_tokens: int = 0
    slot: int | None = None
    status: SequenceStatus = SequenceStatus.WAITING
    scheduled_time: float | None = None
    first_token_time: float | None = None
    last_token_time: float | None = None
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=lambda: [None])
    logits_processor: LogitsProcessor | None = None
    draft_table: DraftTable | None = None
    hidden_sum: NDArray[np.float64] | None = None
    error: DataError | EngineError | None = None

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.token_ids)

    @property
    def prompt_token_ids(self) -> list[int]:
        """The tokens that the request came with."""
        return self.token_ids[: self.num_prompt_tokens]

    @property
    def completion_token_ids(self) -> list[int]:
        """The tokens that were generated."""
        return self.token_ids[self.num_prompt_tokens :]

    @property
    def num_completion_tokens(self) -> int:
        """How many tokens were generated."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_pending_tokens(self) -> int:
        """Tokens that must still run before the next can be sampled: 1 in decode, else prefill."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def is_structure_complete(self) -> bool:
        """Whether a structured output is whole, so that no token can follow."""
        return self.logits_processor is not None and self.logits_processor.is_complete

    @property
    def is_embedding(self) -> bool:
        """Whether it ends with its prompt, for the hidden states of which it was sent."""
        return self.hidden_sum is not None

    @property
    def can_reuse_prefix(self) -> bool:
        """Whether its prompt may start from cached state."""
        return self.hidden_sum is None and self.params.can_reuse_prefix

    @property
    def wants_every_result(self) -> bool:
        """Whether every token's logits or hidden states are wanted, not the last one's only."""
        return self.hidden_sum is not None or self.params.prompt_logprobs is not None

    def times(self, finished: float) -> RequestTimes:
        """The request's times, once it has ended."""
        return RequestTimes(self.arrival_time, self.scheduled_time, self.first_token_time, finished)
