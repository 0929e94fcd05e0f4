"""/livez, /readyz, /healthz and /metrics, and the watch over the event loop.

Alive means that a restart would not help; ready means that a request would be taken.
"""

import asyncio
import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serving.openai_api.observer import ServerObserver
from serving.openai_api.state import state_of

_LAG_INTERVAL_SECONDS = 0.25


async def livez(request: Request) -> Response:
    """200 as long as the process can do its work, 503 when only a new one can."""
    if state_of(request).is_alive:
        return JSONResponse({"status": "alive"})
    return JSONResponse({"status": "dead"}, status_code=503)


async def readyz(request: Request) -> Response:
    """200 when a request would be taken, 503 while the model loads and during a shutdown."""
    if state_of(request).is_ready:
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": "not ready"}, status_code=503)


async def metrics(request: Request) -> Response:
    """Expose the metrics in the format that the client asks for."""
    body, content_type = state_of(request).metrics(request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type})


async def watch_event_loop(observer: ServerObserver) -> None:
    """Report for ever how late the event loop wakes up."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(_LAG_INTERVAL_SECONDS)
        observer.event_loop_lag(max(0.0, time.monotonic() - before - _LAG_INTERVAL_SECONDS))
