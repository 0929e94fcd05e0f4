"""A request that is sent again with its Idempotency-Key gets the reply that it had, streams too.

Replies live in memory only, for a while and up to a size, apart for each API key. A reply that
failed, or that its client did not read to the end, is not kept: the request runs again. While it
runs, another with its key is refused with 409, which the official client tries again.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.openai_api.errors import ApiError
from serving.openai_api.observer import facts_of
from serving.openai_api.tenant import tenant_of

_MAX_KEY_LENGTH = 255
_FIXED_BYTES = 2048  # of a reply beside its body
_Name = tuple[str, str]  # tenant, key


@dataclass(slots=True)
class _Kept:
    """A reply, or the place of one that is not there yet.

    Attributes:
        digest: of the request.
        messages: as the app sent them; complete when `is_complete`.
    """

    digest: bytes
    expires: float
    messages: list[Message] = field(default_factory=list)
    is_complete: bool = False

    @property
    def size(self) -> int:
        return _FIXED_BYTES + sum(len(message.get("body", b"")) for message in self.messages)


class ReplyCache:
    """Replies by tenant and key, the oldest first to go.

    Args:
        seconds: how long a reply is kept.
        max_bytes: of all bodies together.
        clock: seconds that only grow.
    """

    def __init__(
        self, seconds: float, max_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._clock = clock
        self._kept: OrderedDict[_Name, _Kept] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._kept)

    def begin(self, name: _Name, digest: bytes) -> list[Message] | None:
        """Give the reply to a request, or keep a place for it.

        Raises:
            ApiError: the same key is at work (409), or was used for another request (422).
        """
        self._expire()
        kept = self._kept.get(name)
        if kept is None:
            self._kept[name] = _Kept(digest, self._clock() + self._seconds)
            return None
        if kept.digest != digest:
            raise ApiError(
                "This Idempotency-Key was used for another request. Send a new key.",
                status=422,
                param="Idempotency-Key",
                code="idempotency_key_reused",
            )
        if not kept.is_complete:
            raise ApiError(
                "The request with this Idempotency-Key is still at work. Try again.",
                status=409,
                param="Idempotency-Key",
                code="idempotency_key_in_use",
                retry_after_seconds=1,
            )
        return kept.messages

    def end(self, name: _Name, messages: list[Message]) -> None:
        """Keep the reply to a request, unless it is larger than all may be."""
        kept = self._kept.pop(name)
        kept.messages, kept.is_complete = _joined(messages), True
        kept.expires = self._clock() + self._seconds
        if kept.size > self._max_bytes:
            return
        self._kept[name] = kept
        self._size += kept.size
        while self._size > self._max_bytes:
            self._drop(next(name for name, kept in self._kept.items() if kept.is_complete))

    def forget(self, name: _Name) -> None:
        """Free the place of a request that ended without a reply to keep."""
        if name in self._kept and not self._kept[name].is_complete:
            del self._kept[name]

    def _expire(self) -> None:
        now, old = self._clock(), []
        for name, kept in self._kept.items():
            if kept.is_complete and kept.expires > now:
                break  # they stand in the order in which they were completed
            if kept.is_complete:
                old.append(name)
        for name in old:
            self._drop(name)

    def _drop(self, name: _Name) -> None:
        self._size -= self._kept.pop(name).size


class Idempotency:
    """Answer a repeated POST with the reply that it had."""

    def __init__(self, app: ASGIApp, seconds: float, max_bytes: int) -> None:
        self._app = app
        self._cache = ReplyCache(seconds, max_bytes) if seconds else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or its reply back."""
        key = Headers(scope=scope).get("idempotency-key") if scope["type"] == "http" else None
        if self._cache is None or key is None or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        if not 0 < len(key) <= _MAX_KEY_LENGTH:
            raise ApiError(
                f"An Idempotency-Key has 1 to {_MAX_KEY_LENGTH} characters.",
                param="Idempotency-Key",
            )
        body = await Request(scope, receive).body()
        name = (tenant_of(scope), key)
        kept = self._cache.begin(name, _digest(scope, body))
        if kept is None:
            await self._run(name, self._cache, body, scope, receive, send)
        else:
            await _replay(kept, send)

    async def _run(
        self,
        name: _Name,
        cache: ReplyCache,
        body: bytes,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        messages: list[Message] = []
        is_read = False

        async def receive_again() -> Message:
            nonlocal is_read
            if is_read:
                return await receive()
            is_read = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send_kept(message: Message) -> None:
            messages.append(message)
            if _is_last(message):  # before the client has it and may ask again
                if _is_good(messages[0], scope):
                    cache.end(name, messages)
                else:
                    cache.forget(name)
            await send(message)

        try:
            await self._app(scope, receive_again, send_kept)
        finally:
            cache.forget(name)


def _is_last(message: Message) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body", False)


def _is_good(start: Message, scope: Scope) -> bool:
    # A stream may have failed after its status was sent.
    return bool(start.get("status") == 200 and facts_of(scope).status is None)


async def _replay(messages: list[Message], send: Send) -> None:
    start, body = messages
    headers = [*start["headers"], (b"idempotency-replayed", b"true")]
    headers = [header for header in headers if header[0] != b"x-request-id"]
    await send({**start, "headers": headers})
    await send(body)


def _joined(messages: list[Message]) -> list[Message]:
    """A reply with its body in one piece: a stream is thousands, each larger than what it says."""
    start, *bodies = messages
    body = b"".join(message.get("body", b"") for message in bodies)
    return [start, {"type": "http.response.body", "body": body, "more_body": False}]


def _digest(scope: Scope, body: bytes) -> bytes:
    return hashlib.sha256(scope["path"].encode("utf-8", "replace") + b"\0" + body).digest()
