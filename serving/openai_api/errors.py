"""Every failure in the OpenAI error form: one function decides status, type, code and headers.

`{"error": {"message", "type", "param", "code"}}`, all four keys always. What a client may do about
an error it can read in the status: 4xx is its own doing, 429 and 503 carry Retry-After.
"""

import json
import math
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from everloop.errors import (
    DataError,
    EngineStoppedError,
    EverloopError,
    NotFoundError,
    PromptTooLongError,
    QueueFullError,
    StoreError,
)

CLIENT_CLOSED_REQUEST = 499

# The official client gives up at once when it is told to wait longer than two minutes.
_MAX_RETRY_AFTER_SECONDS = 120

# Exception, status, code, and when to come back in seconds.
_KNOWN: tuple[tuple[type[Exception], int, str | None, float | None], ...] = (
    (PromptTooLongError, 400, "context_length_exceeded", None),
    (QueueFullError, 429, "rate_limit_exceeded", None),
    (EngineStoppedError, 503, "engine_stopped", 1),
    (StoreError, 503, "store_unavailable", 1),
    (NotFoundError, 404, "not_found", None),
    (DataError, 400, None, None),
)
_ROUTING = {404: "There is no such route.", 405: "This route takes another method."}

# Faults of a field that is not in the body; pydantic's own, and those of chat_request.
_OF_ABSENT = frozenset({"missing", "call_id", "content"})


class ApiError(EverloopError):
    """A request that the API itself refuses."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: float | None = None,
        is_worth_retrying: bool = True,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = _retry_after(retry_after_seconds)
        if not is_worth_retrying:
            # The official client would try a 409 or 5xx again at once.
            self.headers["x-should-retry"] = "false"


def overdue() -> ApiError:
    """What a request is told whose time is over."""
    return ApiError(
        "The request took longer than it may (server.max_request_seconds, or the header "
        "x-request-timeout).",
        status=504,
        code="timeout",
        is_worth_retrying=False,
    )


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error as it goes over the wire."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def type(self) -> str:
        """The family of the error, in OpenAI's words."""
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def body(self) -> bytes:
        """The JSON text, the same in a response body and in a stream."""
        content = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return json.dumps({"error": content}, ensure_ascii=False).encode("utf-8", "replace")


def describe(error: Exception) -> ErrorReply:
    """Map an exception to its reply; what is not known to be the client's is a bare 500."""
    if isinstance(error, ApiError):
        return ErrorReply(error.status, str(error), error.param, error.code, error.headers)
    if isinstance(error, ValidationError):
        return describe(invalid(error, None))
    if isinstance(error, HTTPException):
        message = _ROUTING.get(error.status_code, error.detail)
        return ErrorReply(error.status_code, message, headers=dict(error.headers or {}))
    for kind, status, code, seconds in _KNOWN:
        if isinstance(error, kind):
            headers = _retry_after(getattr(error, "retry_after_seconds", seconds))
            return ErrorReply(status, str(error), code=code, headers=headers)
    if isinstance(error, ClientDisconnect):
        return ErrorReply(CLIENT_CLOSED_REQUEST, "The client closed the request.")
    return ErrorReply(500, "The server had an error; its log has the details.")


def _retry_after(seconds: float | None) -> dict[str, str]:
    if seconds is None:
        return {}
    return {"retry-after": str(min(max(1, math.ceil(seconds)), _MAX_RETRY_AFTER_SECONDS))}


def invalid(error: ValidationError, body: Any) -> ApiError:
    """What a client is told whose body is wrong.

    Args:
        error: its first fault is told; of a union, that of the member that came furthest.
        body: what the client sent; None if that is unknown.
    """
    faults = error.errors(include_url=False)
    field = faults[0]["loc"][:1]
    places = [
        fault["loc"] if body is None else _sent(fault["loc"], body, fault["type"] in _OF_ABSENT)
        for fault in faults
    ]
    same = [number for number, fault in enumerate(faults) if fault["loc"][:1] == field]
    chosen = max(same, key=lambda number: len(places[number]))
    first, param = faults[chosen], _path(places[chosen])
    index = first.get("ctx", {}).get("index")
    if index is not None:
        param += f"[{index}]"
    if first["type"] == "missing":
        return ApiError(f"{param} is required.", param=param, code="missing_required_parameter")
    message = first["msg"].removeprefix("Value error, ")
    found = repr(first["input"])
    shown = found if len(found) <= 60 else found[:57] + "..."
    return ApiError(f"{param}: {message}, got {shown}.", param=param, code="invalid_value")


def _sent(location: tuple[int | str, ...], body: Any, is_absent: bool) -> tuple[int | str, ...]:
    """The parts of a location that lead through a body; pydantic adds the members of its unions."""
    kept: list[int | str] = []
    for number, part in enumerate(location):
        if isinstance(body, dict) and (part in body or (is_absent and number == len(location) - 1)):
            body = body.get(part)
        elif isinstance(body, list) and isinstance(part, int) and part < len(body):
            body = body[part]
        else:
            continue
        kept.append(part)
    return tuple(kept)


def _path(location: tuple[int | str, ...]) -> str:
    """`("messages", 0, "role")` is `messages[0].role`."""
    text = ""
    for part in location:
        if part != "[key]":  # pydantic's word for a dictionary's key that is wrong
            text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
