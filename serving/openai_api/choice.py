"""One answer as it grows: what the engine has said, whoever reads it and in which form."""

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from everloop.errors import EngineStoppedError
from everloop.records import Message
from serving.engine.sampling_params import SamplingParams
from serving.openai_api.errors import overdue

if TYPE_CHECKING:
    from serving.engine.sequence import RequestOutput, RequestTimes


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What one or several answers continue.

    Attributes:
        token_ids: as the engine takes them.
        messages: what the store keeps as the question.
        params: how to continue.
        is_text: it came as text, not as token ids.
    """

    token_ids: list[int]
    messages: tuple[Message, ...]
    params: SamplingParams
    is_text: bool = True


@dataclass(slots=True, eq=False)
class Choice:
    """One answer to one prompt.

    Attributes:
        index: its place in the reply.
        request_id: its name in the engine.
        is_scoring: the prompt's logprobs are all that is wanted; what is generated is dropped.
        outputs: what the engine gave, in order.
    """

    index: int
    request_id: str
    prompt: Prompt
    params: SamplingParams
    is_scoring: bool = False
    outputs: "list[RequestOutput]" = field(default_factory=list)
    num_tokens: int = 0
    finish_reason: Literal["stop", "length"] | None = None
    times: "RequestTimes | None" = None
    first_output: float | None = None
    num_cached_tokens: int = 0
    _logprob: float = 0.0

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(output.text for output in self.outputs)

    @property
    def is_finished(self) -> bool:
        """Whether the answer is whole."""
        return self.finish_reason is not None

    @property
    def mean_logprob(self) -> float:
        """Log-probability per token: by it the best of several answers is chosen."""
        return self._logprob / max(1, self.num_tokens)

    def take(self, output: "RequestOutput") -> "RequestOutput":
        """Take the next output and give it as the reply is to have it.

        Raises:
            ApiError: the request's time is over (504).
            EngineStoppedError: the engine has given it up.
        """
        if self.first_output is None:
            self.first_output = time.monotonic()
        reason = output.finish_reason
        if reason == "timeout":
            raise overdue()
        if reason == "abort" or reason == "error":
            raise EngineStoppedError("The server could not finish this answer.")
        if self.is_scoring:
            output = _without_answer(output)
            reason = output.finish_reason and "length"
        self.outputs.append(output)
        self.num_tokens += len(output.token_ids)
        self._logprob += sum(entry.logprob for entry in output.logprobs)
        self.finish_reason = reason
        if reason:
            self.times, self.num_cached_tokens = output.times, output.num_cached_tokens
        return output


def _without_answer(output: "RequestOutput") -> "RequestOutput":
    return replace(output, text="", token_ids=(), logprobs=())
