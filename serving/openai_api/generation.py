"""One request from its prompts to its records, the same for chats and completions.

It knows the engine and the recorder, not HTTP: how answers are sent is in streaming.py.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from everloop.errors import EngineStoppedError, EverloopError, StoreError
from everloop.records import Interaction
from serving.openai_api.choice import Choice, Prompt
from serving.openai_api.errors import ApiError
from serving.openai_api.merge import merge
from serving.openai_api.responses import PromptTokensDetails, Usage
from serving.openai_api.sampling import seeded
from serving.openai_api.state import ApiState

if TYPE_CHECKING:
    from serving.engine.llm_engine import LLMEngine
    from serving.engine.output_stream import OutputStream
    from serving.engine.sequence import RequestOutput

logger = logging.getLogger(__name__)

Unfinished = Literal["abort", "error", "timeout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmittedRequest:
    """A checked request, bound to the version that answers it.

    Attributes:
        num_choices: answers to each prompt.
        num_candidates: answers that are generated, of which the best are given.
        is_scoring: only the prompts' logprobs are wanted.
        tenant: whose share of the engine it takes.
        deadline: time.monotonic() at which it ends.
        keep_text: whether the store may keep what was said.
    """

    id: str
    route: Literal["chat", "completions"]
    version: "LLMEngine"
    prompts: list[Prompt]
    num_choices: int
    num_candidates: int
    is_scoring: bool = False
    tenant: str
    deadline: float | None
    metadata: dict[str, str]
    tools: tuple[dict[str, Any], ...] | None
    keep_text: bool


class Generation:
    """The answers to one request, as they grow.

    Attributes:
        choices: in the order of the reply: by prompt, then by answer. Of more candidates than
            answers the best are chosen at the end.
    """

    def __init__(self, api: ApiState, request: AdmittedRequest) -> None:
        self.request = request
        self.created_at = time.time()
        self._api = api
        self._arrival = time.monotonic()
        self._is_recorded = False
        self._streams: list[OutputStream] = []
        self._candidates = [
            Choice(
                index=number * request.num_candidates + index,
                request_id=_numbered(request.id, number * request.num_candidates + index),
                prompt=prompt,
                params=seeded(prompt.params, index),
                is_scoring=request.is_scoring,
            )
            for number, prompt in enumerate(request.prompts)
            for index in range(request.num_candidates)
        ]
        self.choices = self._candidates

    @property
    def model(self) -> str:
        """Tag of the version that answers."""
        return self.request.version.manifest.tag

    @property
    def usage(self) -> Usage:
        """Token counts so far; answers that were not the best count too."""
        prompt = sum(len(prompt.token_ids) for prompt in self.request.prompts)
        completion = sum(choice.num_tokens for choice in self._candidates)
        firsts = self._candidates[:: self.request.num_candidates]
        cached = sum(choice.num_cached_tokens for choice in firsts)
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
        )

    async def start(self) -> None:
        """Hand every answer to the engine.

        Raises:
            PromptTooLongError, QueueFullError, DataError: the engine does not take it.
            EngineStoppedError: it is stopping, or has another version now.
        """
        try:
            for choice in self._candidates:
                self._streams.append(self._generate(choice))
        except EverloopError:
            for stream in self._streams:
                await stream.aclose()
            raise

    async def outputs(self) -> "AsyncGenerator[tuple[Choice, RequestOutput], None]":
        """Read what was started; each item is what one step of the engine added to one choice.

        Closing this generator frees the request's places in the engine at its next step.

        Raises:
            EngineStoppedError: the engine could not go on.
            ApiError: no token came in time, or the deadline has passed.
        """
        async with AsyncExitStack() as stack:
            for stream in self._streams:
                stack.push_async_callback(stream.aclose)
            merged = await stack.enter_async_context(aclosing(merge(self._streams)))
            item = await self._first(merged)
            while item is not None:
                choice = self._candidates[item[0]]
                yield choice, choice.take(item[1])
                if all(choice.is_finished for choice in self._candidates):
                    break
                item = await anext(merged, None)
        if not all(choice.is_finished for choice in self._candidates):
            raise EngineStoppedError("The engine stopped before the answer was complete.")
        self._choose()

    async def record(self) -> None:
        """Make every answer durable; a second call does nothing.

        Raises:
            StoreError: one cannot be kept.
        """
        await self._record(None)

    async def record_unsent(self, reason: Unfinished) -> None:
        """Record answers that no client will read whole; a failure is logged."""
        try:
            await self._record(reason)
        except StoreError as error:
            logger.warning("request=%s not recorded: %s", self.request.id, error)

    def _generate(self, choice: Choice) -> "OutputStream":
        request = self.request
        return self._api.engine.generate(
            choice.prompt.token_ids,
            choice.params,
            choice.request_id,
            request.version,
            tenant=request.tenant,
            deadline=request.deadline,
        )

    async def _first(
        self, merged: "AsyncGenerator[tuple[int, RequestOutput], None]"
    ) -> "tuple[int, RequestOutput] | None":
        limit = self._api.config.first_token_timeout_seconds
        try:
            async with asyncio.timeout(limit):
                return await anext(merged, None)
        except TimeoutError as error:
            raise ApiError(
                f"No token after {limit:g} seconds; the server is overloaded.",
                status=503,
                code="timeout",
                retry_after_seconds=10,
            ) from error

    def _choose(self) -> None:
        request = self.request
        if request.num_candidates == request.num_choices:
            return
        chosen = []
        for start in range(0, len(self._candidates), request.num_candidates):
            group = self._candidates[start : start + request.num_candidates]
            best = sorted(group, key=lambda choice: choice.mean_logprob, reverse=True)
            chosen += best[: request.num_choices]
        for index, choice in enumerate(chosen):
            choice.index = index
        self.choices = chosen

    async def _record(self, reason: Unfinished | None) -> None:
        if self._is_recorded:
            return
        # Before the wait: an interrupted one is in the recorder's hands and must not come twice.
        self._is_recorded = True
        records = [
            self._api.recorder.record(self._interaction(choice, reason)) for choice in self.choices
        ]
        failures = [
            found for found in await asyncio.gather(*records, return_exceptions=True) if found
        ]
        lost = sum(isinstance(failure, StoreError) for failure in failures)
        if lost:
            self._api.observer.store_dropped(lost)
        if failures:
            raise failures[0]

    def _interaction(self, choice: Choice, reason: Unfinished | None) -> Interaction:
        request, params, times = self.request, choice.params, choice.times
        scheduled = choice.first_output if times is None else times.scheduled
        first = choice.first_output if times is None else times.first_token
        return Interaction(
            id=_numbered(request.id, choice.index),
            created_at=self.created_at,
            route=request.route,
            conversation_id=request.metadata.get("conversation_id"),
            model_version=self.model,
            messages=choice.prompt.messages if request.keep_text else (),
            tools=request.tools if request.keep_text else None,
            answer=choice.text if request.keep_text else None,
            finish_reason=reason or choice.finish_reason or "error",
            prompt_tokens=len(choice.prompt.token_ids),
            completion_tokens=choice.num_tokens,
            temperature=params.temperature,
            top_p=params.top_p,
            max_tokens=params.max_tokens,
            seed=params.seed,
            queue_seconds=max(0.0, (scheduled or time.monotonic()) - self._arrival),
            ttft_seconds=None if first is None else first - self._arrival,
            e2e_seconds=time.monotonic() - self._arrival,
            metadata=request.metadata if request.keep_text else {},
        )


def _numbered(request_id: str, index: int) -> str:
    """The id of one answer: the first has the reply's own."""
    return request_id if index == 0 else f"{request_id}-{index}"
