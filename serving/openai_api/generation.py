"""One request from its prompt to its record, the same for chats and completions.

It knows the engine and the recorder, not HTTP: how an answer is sent is in streaming.py.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from everloop.errors import EngineStoppedError, StoreError
from everloop.records import Interaction, Message
from serving.engine.sampling_params import SamplingParams
from serving.openai_api.errors import ApiError
from serving.openai_api.protocol import GenerationRequest
from serving.openai_api.responses import FinishReason, Usage
from serving.openai_api.state import ApiState

if TYPE_CHECKING:
    from serving.engine.llm_engine import LLMEngine
    from serving.engine.sequence import RequestOutput, RequestTimes

logger = logging.getLogger(__name__)

# Sampling with a share of zero means the most probable token; the engine wants a positive share.
_SMALLEST_TOP_P = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmittedRequest:
    """A checked request, bound to the version that answers it."""

    id: str
    route: Literal["chat", "completions"]
    version: "LLMEngine"
    prompt_token_ids: list[int]
    params: SamplingParams
    messages: tuple[Message, ...]  # what the store keeps as the question
    metadata: dict[str, str]
    keep_text: bool


class Generation:
    """The answer to one request, as it grows."""

    def __init__(self, api: ApiState, request: AdmittedRequest) -> None:
        self.request = request
        self.created_at = time.time()
        self.text = ""
        self._api = api
        self._completion_tokens = 0
        self._finish_reason: FinishReason | None = None
        self._times: RequestTimes | None = None
        self._arrival = time.monotonic()
        self._first_output: float | None = None
        self._is_recorded = False

    @property
    def model(self) -> str:
        """Tag of the version that answers."""
        return self.request.version.manifest.tag

    @property
    def created(self) -> int:
        """Unix time, in whole seconds as the wire has it."""
        return int(self.created_at)

    @property
    def finish_reason(self) -> FinishReason:
        """Why a whole answer ended."""
        if self._finish_reason is None:
            raise RuntimeError("the answer has not ended")
        return self._finish_reason

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        prompt, completion = len(self.request.prompt_token_ids), self._completion_tokens
        return Usage(
            prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion
        )

    async def pieces(self) -> AsyncGenerator[str, None]:
        """Generate; each piece is the text of one engine output and may be empty.

        Closing this generator frees the request's place in the engine at its next step.

        Raises:
            PromptTooLongError, QueueFullError: before the first piece.
            EngineStoppedError: the engine could not go on.
            ApiError: no token came in time.
        """
        request = self.request
        outputs = self._api.engine.generate(
            request.prompt_token_ids, request.params, request.id, request.version
        )
        async with aclosing(outputs):
            output = await self._first(outputs)
            while output is not None:
                self._take(output)
                yield output.text
                output = None if self._finish_reason else await anext(outputs, None)
        if self._finish_reason is None:
            raise EngineStoppedError("The engine stopped before the answer was complete.")

    async def record(self, finish_reason: Literal["stop", "length", "abort", "error"]) -> None:
        """Make the interaction durable; a second call does nothing.

        Raises:
            StoreError: it cannot be kept.
        """
        if self._is_recorded:
            return
        # Before the wait: an interrupted one is in the recorder's hands and must not come twice.
        self._is_recorded = True
        try:
            await self._api.recorder.record(self._interaction(finish_reason))
        except StoreError:
            self._api.observer.store_dropped(1)
            raise

    async def record_unsent(self, finish_reason: Literal["abort", "error"]) -> None:
        """Record an answer that no client will read; a failure is logged."""
        try:
            await self.record(finish_reason)
        except StoreError as error:
            logger.warning("request=%s not recorded: %s", self.request.id, error)

    async def _first(self, outputs: "AsyncIterator[RequestOutput]") -> "RequestOutput | None":
        limit = self._api.config.first_token_timeout_seconds
        try:
            async with asyncio.timeout(limit):
                output = await anext(outputs, None)
        except TimeoutError as error:
            raise ApiError(
                f"No token after {limit:g} seconds; the server is overloaded.",
                status=503,
                code="timeout",
                retry_after_seconds=10,
            ) from error
        self._first_output = time.monotonic()
        return output

    def _take(self, output: "RequestOutput") -> None:
        self.text += output.text
        self._completion_tokens += len(output.token_ids)
        self._times = output.times
        if output.finish_reason == "abort" or output.finish_reason == "error":
            raise EngineStoppedError("The server could not finish this answer.")
        self._finish_reason = output.finish_reason

    def _interaction(
        self, finish_reason: Literal["stop", "length", "abort", "error"]
    ) -> Interaction:
        request, params, times = self.request, self.request.params, self._times
        scheduled = self._first_output if times is None else times.scheduled
        first = self._first_output if times is None else times.first_token
        return Interaction(
            id=request.id,
            created_at=self.created_at,
            route=request.route,
            conversation_id=request.metadata.get("conversation_id"),
            model_version=self.model,
            messages=request.messages if request.keep_text else (),
            answer=self.text if request.keep_text else None,
            finish_reason=finish_reason,
            prompt_tokens=len(request.prompt_token_ids),
            completion_tokens=self._completion_tokens,
            temperature=params.temperature,
            top_p=params.top_p,
            max_tokens=params.max_tokens,
            seed=params.seed,
            queue_seconds=max(0.0, (scheduled or time.monotonic()) - self._arrival),
            ttft_seconds=None if first is None else first - self._arrival,
            e2e_seconds=time.monotonic() - self._arrival,
            metadata=request.metadata if request.keep_text else {},
        )


def sampling_params(
    body: GenerationRequest,
    *,
    limit: int | None,
    default_limit: int,
    prompt_tokens: int,
    max_model_len: int,
) -> SamplingParams:
    """Put the request's wishes and the defaults into the engine's terms.

    Args:
        body: the request.
        limit: tokens that the request wants at most, if it says so.
        default_limit: otherwise so many, or as many as fit.
        prompt_tokens: length of the prompt.
        max_model_len: tokens of prompt and answer together.

    Raises:
        ApiError: prompt and answer do not fit (context_length_exceeded).
    """
    room = max_model_len - prompt_tokens
    max_tokens = min(default_limit, room) if limit is None else limit
    if room < 1 or max_tokens > room:
        wanted = f" and the answer up to {limit:,}" if limit else ""
        raise ApiError(
            f"This model takes {max_model_len:,} tokens of prompt and answer together; the prompt "
            f"has {prompt_tokens:,}{wanted}. Shorten the prompt or lower the limit.",
            param="messages" if hasattr(body, "messages") else "prompt",
            code="context_length_exceeded",
        )
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else max(body.top_p, _SMALLEST_TOP_P),
        top_k=body.top_k if body.top_k is not None and body.top_k > 0 else None,
        seed=body.seed,
        stop=tuple(body.stop or ()),
        ignore_eos=bool(body.ignore_eos),
    )
