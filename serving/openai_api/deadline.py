"""When a request must have ended: by the server's limit, or the client's own if it is earlier."""

from starlette.requests import Request

from serving.openai_api.errors import ApiError
from serving.openai_api.observer import facts_of
from serving.openai_api.state import ApiState


def deadline_of(request: Request, api: ApiState) -> float | None:
    """Give the time.monotonic() at which a request ends; None for never.

    The time runs from the arrival of its head, so that reading a body and waiting for admission
    are part of it.

    Raises:
        ApiError: x-request-timeout is no number of seconds.
    """
    limit = api.config.max_request_seconds
    wanted = request.headers.get("x-request-timeout")
    if wanted is not None:
        try:
            seconds = float(wanted)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            raise ApiError(
                f"x-request-timeout must be a number of seconds above 0, got {wanted[:40]!r}.",
                param="x-request-timeout",
            )
        limit = seconds if limit is None else min(limit, seconds)
    return None if limit is None else facts_of(request.scope).arrival + limit
