"""The Starlette app: routes, their names, and what wraps them.

Made from an engine, a recorder, an observer and a metrics callable, so that tests and the BentoML
service make it alike. It loads no model and opens no store.
"""

import contextlib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from serving.openai_api.chat_completions import create_chat_completion
from serving.openai_api.completions import create_completion
from serving.openai_api.config import ServerConfig
from serving.openai_api.embeddings import create_embeddings
from serving.openai_api.errors import describe
from serving.openai_api.feedback import create_feedback, list_feedback
from serving.openai_api.health import livez, metrics, readyz, watch_event_loop
from serving.openai_api.idempotency import Idempotency
from serving.openai_api.middleware import (
    BodyLimit,
    ErrorEnvelope,
    RequestCounter,
    RequestIds,
    error_response,
)
from serving.openai_api.models import list_models, retrieve_model
from serving.openai_api.observer import ServerObserver
from serving.openai_api.openapi import openapi
from serving.openai_api.origin import OriginGuard
from serving.openai_api.recorder import Recorder
from serving.openai_api.shutdown import Shutdown
from serving.openai_api.state import ApiState
from serving.openai_api.tokenize import detokenize, tokenize
from serving.openai_api.unknown_route import unknown_route

if TYPE_CHECKING:
    from serving.engine.async_engine import AsyncEngine

_CHAT_PAGE = Path(__file__).parents[1] / "chat_page" / "index.html"
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def create_app(
    engine: "AsyncEngine",
    recorder: Recorder,
    observer: ServerObserver,
    metrics: Callable[[str], tuple[bytes, str]],
    config: ServerConfig,
) -> Starlette:
    """Make the API.

    Args:
        engine: answers requests; may have no model yet.
        recorder: keeps interactions and feedback.
        observer: counts.
        metrics: Accept header -> exposition and its content type.
        config: limits.

    Returns:
        The app; its `state.api` is the ApiState, whose `is_draining` the owner sets.
    """
    app = Starlette(
        routes=_routes(),
        middleware=_middleware(observer, config),
        exception_handlers={HTTPException: _answer_http_exception},
        lifespan=_lifespan,
    )
    app.state.api = ApiState(engine, recorder, observer, metrics, config)
    return app


def _middleware(observer: ServerObserver, config: ServerConfig) -> list[Middleware]:
    """From outside in."""
    shared = Middleware(
        CORSMiddleware,
        allow_origins=config.allowed_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["x-request-id"],
    )
    return [
        *([shared] if config.allowed_origins else []),
        Middleware(RequestIds),
        Middleware(RequestCounter, observer=observer),
        Middleware(ErrorEnvelope),
        Middleware(OriginGuard, hosts=config.allowed_hosts, origins=config.allowed_origins),
        Middleware(Shutdown),
        Middleware(BodyLimit),
        Middleware(
            Idempotency,
            seconds=config.idempotency_seconds,
            max_bytes=config.idempotency_max_bytes,
        ),
    ]


class _Route(Route):
    """A route that takes its path and nothing behind it: `$` leaves a line break unseen."""

    def __init__(self, path: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(path, *args, **kwargs)
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + r"\Z")


def _routes() -> list[Route]:
    return [
        _Route("/v1/chat/completions", create_chat_completion, methods=["POST"], name="chat"),
        _Route("/v1/completions", create_completion, methods=["POST"], name="completions"),
        _Route("/v1/embeddings", create_embeddings, methods=["POST"], name="embeddings"),
        _Route("/tokenize", tokenize, methods=["POST"], name="tokenize"),
        _Route("/detokenize", detokenize, methods=["POST"], name="tokenize"),
        _Route("/v1/models", list_models, name="models"),
        _Route("/v1/models/{model}", retrieve_model, name="models"),
        _Route("/v1/feedback", _feedback, methods=["GET", "POST"], name="feedback"),
        _Route("/livez", livez, name="health"),
        _Route("/readyz", readyz, name="health"),
        _Route("/healthz", livez, name="health"),
        _Route("/metrics", metrics, name="metrics"),
        _Route("/openapi.json", openapi, name="openapi"),
        _Route("/", _chat_page, name="page"),
    ]


async def _chat_page(_request: Request) -> Response:
    return FileResponse(_CHAT_PAGE, media_type="text/html", headers=_PAGE_HEADERS)


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    reply = describe(error)
    if reply.status == 404:
        reply = replace(reply, message=unknown_route(request.scope["path"]), code="unknown_url")
    return error_response(reply)


async def _feedback(request: Request) -> Response:
    # One route for both methods: of two, the first alone says what is allowed.
    handle = create_feedback if request.method == "POST" else list_feedback
    return await handle(request)


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    api: ApiState = app.state.api
    api.background.start("event_loop_watch", partial(watch_event_loop, api.observer))
    try:
        yield
    finally:
        await api.background.stop()
        api.close()
