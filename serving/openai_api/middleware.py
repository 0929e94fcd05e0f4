"""What every request passes through: its id, its count, the error envelope and the body limit.

Plain ASGI inside the app, because an exception that leaves the app before the first byte would hang
the client until the server's timeout. The order of all is in app.py.
"""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.openai_api.errors import CLIENT_CLOSED_REQUEST, ApiError, ErrorReply, describe
from serving.openai_api.observer import (
    RequestFacts,
    RequestStatus,
    ServerObserver,
    attach_facts,
    facts_of,
)
from serving.openai_api.state import ApiState

logger = logging.getLogger(__name__)

_ACCEPTED_ID = re.compile(r"[\x21-\x7e]{1,128}")
# Probes and scrapes come by the clock and say nothing about the service's users.
_UNCOUNTED = frozenset({"health", "metrics", "openapi", "page"})


def error_response(reply: ErrorReply) -> Response:
    """An error as an HTTP response."""
    return Response(
        reply.body(),
        status_code=reply.status,
        headers=reply.headers,
        media_type="application/json",
    )


class RequestIds:
    """Give each request an id, the client's own if it sent a usable one, and send it back."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its id."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ACCEPTED_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"
        attach_facts(scope, RequestFacts(request_id))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


class RequestCounter:
    """Report every request once, however it ended; labels come from routes, never from paths."""

    def __init__(self, app: ASGIApp, observer: ServerObserver) -> None:
        self._app = app
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and report how it ended."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        start = time.monotonic()
        status = 500

        async def send_watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_watched)
        finally:
            route = getattr(scope.get("route"), "name", "other")
            if route not in _UNCOUNTED:
                facts = facts_of(scope)
                result = facts.status or _status_of(status)
                seconds = time.monotonic() - start
                self._observer.request(route, facts.model, result, facts.stream, seconds)


def _status_of(status: int) -> RequestStatus:
    if status < 400:
        return "ok"
    if status == CLIENT_CLOSED_REQUEST:
        return "client_abort"
    return "rejected" if status < 500 else "error"


class ErrorEnvelope:
    """Answer every exception in the OpenAI error form; the catch-all of the app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and answer what it raises."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        is_started = False

        async def send_watched(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        try:
            await self._app(scope, receive, send_watched)
        except Exception as error:
            reply = describe(error)
            if reply.status == 500:
                logger.exception("request=%s failed", facts_of(scope).id)
            if is_started and not isinstance(error, ClientDisconnect):
                raise  # half a response was sent: only a broken connection can tell the client
            if not is_started:
                await error_response(reply)(scope, receive, send)


class BodyLimit:
    """Refuse request bodies over a size, announced or not."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on while its body is small enough."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        api: ApiState = scope["app"].state.api
        limit = api.max_body_bytes
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdigit():
            _check_size(int(announced), limit)
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            _check_size(received, limit)
            return message

        await self._app(scope, receive_counted, send)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise ApiError(
            f"The body is larger than {limit:,} bytes, which follow from the context of the model "
            "and server.max_body_bytes.",
            status=413,
            code="body_too_large",
        )
