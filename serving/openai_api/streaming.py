"""How answers are sent: whole as JSON, or in pieces as server-sent events.

The last byte of either goes out only after the interactions are durable. A failure after the first
byte becomes `data: {"error": …}` and no `[DONE]`, except when the server stops (shutdown.py); a
client that leaves ends its generation. While a stream waits for its first token, comments keep its
connection open.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from everloop.errors import EverloopError
from serving.openai_api.choice import Choice
from serving.openai_api.disconnect import unless_disconnected
from serving.openai_api.errors import ErrorReply, describe
from serving.openai_api.generation import Generation, Unfinished
from serving.openai_api.observer import RequestFacts, facts_of
from serving.openai_api.reply import Reply
from serving.openai_api.state import ApiState

if TYPE_CHECKING:
    from serving.engine.sequence import RequestOutput

    _Item = tuple[Choice, RequestOutput]

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
_EVENT_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # proxies of the nginx family must not collect events
]


def events(chunks: Iterable[bytes]) -> bytes:
    """Server-sent events, one for each chunk; JSON has no line breaks of its own."""
    return b"".join(b"data: " + chunk + b"\n\n" for chunk in chunks)


class GenerationResponse(Response):
    """An ASGI response that generates while it sends."""

    def __init__(
        self, api: ApiState, generation: Generation, reply: Reply, *, stream: bool
    ) -> None:
        super().__init__()
        self._api = api
        self._generation = generation
        self._reply = reply
        self._stream = stream
        self._is_complete = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Generate and send, or stop when the client leaves."""
        facts = facts_of(scope)
        self._api.num_active += 1
        try:
            answer = self._send_stream(send, facts) if self._stream else self._send_whole(send)
            await unless_disconnected(receive, answer)
        except (ClientDisconnect, asyncio.CancelledError) as error:
            if self._is_complete:
                return
            is_stopped = isinstance(error, asyncio.CancelledError) and self._api.is_draining
            facts.status = "error" if is_stopped else "client_abort"
            await self._generation.record_unsent("error" if is_stopped else "abort")
            raise
        except EverloopError as error:
            reply = describe(error)
            if reply.code == "timeout":
                facts.status = "timeout"
            if reply.status >= 500:
                await self._generation.record_unsent(_reason(reply))
            raise
        finally:
            self._api.num_active -= 1

    async def _send_whole(self, send: Send) -> None:
        async with aclosing(self._generation.outputs()) as outputs:
            async for _ in outputs:
                pass
        body = self._reply.whole()
        await self._generation.record()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        self._is_complete = True
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _send_stream(self, send: Send, facts: RequestFacts) -> None:
        async with aclosing(self._generation.outputs()) as outputs:
            first = asyncio.ensure_future(anext(outputs))
            try:
                # Before the first byte: a refusal can still have its own HTTP status.
                is_started = await self._wait_for(first, send)
                if not is_started:
                    first.result()
                    await _start_events(send)
                try:
                    await self._send_events(send, await first, outputs)
                    await self._generation.record()
                    last = DONE
                except Exception as error:  # noqa: BLE001 - the HTTP boundary: every failure answers
                    last = events([(await self._failure(error, facts)).body()])
            finally:
                first.cancel()
                await asyncio.wait([first])
        self._is_complete = True
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _wait_for(self, first: "asyncio.Task[_Item]", send: Send) -> bool:
        """Wait for the first output; say whether the stream had to begin without it."""
        is_started = False
        seconds = self._api.config.keep_alive_seconds
        while not (await asyncio.wait([first], timeout=seconds))[0]:
            if not is_started:
                await _start_events(send)
                is_started = True
            await _send_part(send, KEEP_ALIVE)
        return is_started

    async def _send_events(
        self,
        send: Send,
        first: "_Item",
        outputs: "AsyncGenerator[_Item, None]",
    ) -> None:
        reply = self._reply
        await _send_part(send, events(reply.opening() + reply.piece(*first)))
        async for choice, output in outputs:
            await _send_part(send, events(reply.piece(choice, output)))
        await _send_part(send, events(reply.ending()))

    async def _failure(self, error: Exception, facts: RequestFacts) -> ErrorReply:
        reply = describe(error)
        facts.status = "timeout" if reply.code == "timeout" else "error"
        if reply.status == 500:
            logger.error("request=%s failed in its stream", facts.id, exc_info=error)
        await self._generation.record_unsent(_reason(reply))
        return reply


def _reason(reply: ErrorReply) -> Unfinished:
    return "timeout" if reply.code == "timeout" else "error"


async def _start_events(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _EVENT_HEADERS})


async def _send_part(send: Send, body: bytes) -> None:
    if body:
        await send({"type": "http.response.body", "body": body, "more_body": True})
