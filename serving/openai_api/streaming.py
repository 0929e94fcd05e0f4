"""How an answer is sent: whole as JSON, or in pieces as server-sent events.

The last byte of either goes out only after the interaction is durable. A failure after the first
byte becomes `data: {"error": …}` and no `[DONE]`; a client that leaves ends its generation.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Protocol

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from everloop.errors import EverloopError
from serving.openai_api.errors import ErrorReply, describe
from serving.openai_api.generation import Generation
from serving.openai_api.observer import RequestFacts, facts_of
from serving.openai_api.responses import FinishReason, Usage
from serving.openai_api.state import ApiState

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
_EVENT_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # proxies of the nginx family must not collect events
]


class AnswerForm(Protocol):
    """Writes one route's JSON."""

    def whole(self, generation: Generation) -> bytes:
        """The reply that holds the answer."""

    def opening(self) -> bytes | None:
        """The chunk before any text."""

    def piece(self, text: str) -> bytes:
        """A chunk with text."""

    def closing(self, finish_reason: FinishReason) -> bytes:
        """The chunk that says why the answer ended."""

    def usage(self, usage: Usage) -> bytes | None:
        """The chunk with the token counts, if the client asked for it."""


def event(data: bytes) -> bytes:
    """One server-sent event; JSON has no line breaks of its own."""
    return b"data: " + data + b"\n\n"


class GenerationResponse(Response):
    """An ASGI response that generates while it sends."""

    def __init__(
        self, api: ApiState, generation: Generation, form: AnswerForm, *, stream: bool
    ) -> None:
        super().__init__()
        self._api = api
        self._generation = generation
        self._form = form
        self._stream = stream
        self._is_complete = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Generate and send, or stop when the client leaves."""
        facts = facts_of(scope)
        self._api.num_active += 1
        try:
            answer = self._send_stream(send, facts) if self._stream else self._send_whole(send)
            await unless_disconnected(receive, answer)
        except (ClientDisconnect, asyncio.CancelledError):
            if self._is_complete:
                return
            facts.status = "client_abort"
            await self._generation.record_unsent("abort")
            raise
        except EverloopError as error:
            reply = describe(error)
            if reply.code == "timeout":
                facts.status = "timeout"
            if reply.status >= 500:
                await self._generation.record_unsent("error")
            raise
        finally:
            self._api.num_active -= 1

    async def _send_whole(self, send: Send) -> None:
        async with aclosing(self._generation.pieces()) as pieces:
            async for _ in pieces:
                pass
        body = self._form.whole(self._generation)
        await self._generation.record(self._generation.finish_reason)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        self._is_complete = True
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _send_stream(self, send: Send, facts: RequestFacts) -> None:
        async with aclosing(self._generation.pieces()) as pieces:
            # Before the first byte: a refusal can still have its own HTTP status.
            first = await anext(pieces)
            await send({"type": "http.response.start", "status": 200, "headers": _EVENT_HEADERS})
            try:
                await self._send_events(send, first, pieces)
                await self._generation.record(self._generation.finish_reason)
                last = DONE
            except Exception as error:  # noqa: BLE001 - the HTTP boundary: every failure answers
                last = event((await self._failure(error, facts)).body())
        self._is_complete = True
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _send_events(self, send: Send, first: str, pieces: AsyncIterator[str]) -> None:
        generation, form = self._generation, self._form
        opening = form.opening()
        head = event(opening) if opening else b""
        if first:
            head += event(form.piece(first))
        if head:
            await send({"type": "http.response.body", "body": head, "more_body": True})
        async for text in pieces:
            if text:
                body = event(form.piece(text))
                await send({"type": "http.response.body", "body": body, "more_body": True})
        tail = event(form.closing(generation.finish_reason))
        usage = form.usage(generation.usage)
        if usage:
            tail += event(usage)
        await send({"type": "http.response.body", "body": tail, "more_body": True})

    async def _failure(self, error: Exception, facts: RequestFacts) -> ErrorReply:
        facts.status = "error"
        reply = describe(error)
        if reply.status == 500:
            logger.error("request=%s failed in its stream", facts.id, exc_info=error)
        await self._generation.record_unsent("error")
        return reply


async def unless_disconnected(receive: Receive, work: Coroutine[object, object, None]) -> None:
    """Run `work` to its end, or cancel it as soon as the client has left.

    Raises:
        ClientDisconnect: the client left first.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        task.result()
    finally:
        for waiting in (task, watcher):
            waiting.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
