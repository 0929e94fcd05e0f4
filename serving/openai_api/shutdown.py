"""What requests meet while the service stops: new ones are refused, and those at work are ended.

After the grace every request that is left gets an error in the form that it can read: a whole reply
is 503 `shutting_down`, a stream gets the error as an event and its `[DONE]`.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.openai_api.errors import describe
from serving.openai_api.observer import facts_of
from serving.openai_api.state import ApiState, shutting_down
from serving.openai_api.streaming import DONE, events

# Probes and scrapes are answered to the last: they say that the service is stopping.
_ALWAYS = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})


class Shutdown:
    """Refuse what comes while the service stops, and end what it cannot wait for."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, unless the service is stopping.

        Raises:
            ApiError: it is, and nothing of a reply was sent.
        """
        if scope["type"] != "http" or scope["path"] in _ALWAYS:
            return await self._app(scope, receive, send)
        api: ApiState = scope["app"].state.api
        if api.is_draining:
            raise shutting_down()
        reply = _Reply(send)
        limit = asyncio.timeout(None)
        api.at_work.add(limit)
        try:
            try:
                async with limit:
                    await self._app(scope, receive, reply.send)
            except TimeoutError:
                if not limit.expired():
                    raise
                facts_of(scope).status = "error"
                await reply.end()
        finally:
            api.at_work.discard(limit)


class _Reply:
    """Watches how much of a reply was sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._is_started = self._is_stream = self._is_complete = False

    async def send(self, message: Message) -> None:
        """Pass a part of the reply on."""
        if message["type"] == "http.response.start":
            self._is_started = True
            self._is_stream = _is_event_stream(message)
        elif message["type"] == "http.response.body":
            self._is_complete = not message.get("more_body", False)
        await self._send(message)

    async def end(self) -> None:
        """Say that the service stops, as far as the reply still can.

        Raises:
            ApiError: nothing of the reply was sent, so it can have its own status.
        """
        if not self._is_started:
            raise shutting_down()
        if self._is_stream and not self._is_complete:
            last = events([describe(shutting_down()).body()]) + DONE
            await self._send({"type": "http.response.body", "body": last, "more_body": False})


def _is_event_stream(start: Message) -> bool:
    kind: bytes = dict(start["headers"]).get(b"content-type", b"")
    return kind.startswith(b"text/event-stream")
