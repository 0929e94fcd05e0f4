"""Every failure in the OpenAI error form: one function decides status, type, code and headers.

`{"error": {"message", "type", "param", "code"}}`, all four keys always. What a client may do about
an error it can read in the status: 4xx is its own doing, 429 and 503 carry Retry-After.
"""

import json
import math
from dataclasses import dataclass, field

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
        return _describe_validation(error)
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


def _describe_validation(error: ValidationError) -> ErrorReply:
    first = error.errors(include_url=False, include_context=False)[0]
    param = _path(first["loc"])
    if first["type"] == "missing":
        return ErrorReply(400, f"{param} is required.", param, "missing_required_parameter")
    message = first["msg"].removeprefix("Value error, ")
    found = repr(first["input"])
    shown = found if len(found) <= 60 else found[:57] + "..."
    return ErrorReply(400, f"{param}: {message}, got {shown}.", param, "invalid_value")


def _path(location: tuple[int | str, ...]) -> str:
    """`("messages", 0, "role")` is `messages[0].role`."""
    text = ""
    for part in location:
        if part != "[key]":  # pydantic's word for a dictionary's key that is wrong
            text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
