"""What the handlers of one app share: engine, recorder, observer, and who is at work."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import Request

from serving.openai_api.background import BackgroundTasks
from serving.openai_api.config import ServerConfig
from serving.openai_api.context_limits import ContextLimits
from serving.openai_api.errors import ApiError, overdue
from serving.openai_api.observer import ServerObserver
from serving.openai_api.prompt import PromptEncoder
from serving.openai_api.recorder import Recorder
from serving.openai_api.workers import Workers

if TYPE_CHECKING:
    from serving.engine.async_engine import AsyncEngine
    from serving.engine.llm_engine import LLMEngine

CHAMPION = "everloop"  # whatever the version is called
_PROMPT_THREADS = 2
_GRAMMAR_THREADS = 1  # the library computes without Python's lock: one leaves cores to the engine
_UNKNOWN_CONTEXT = 2048  # tokens, while no model is loaded


@dataclass(slots=True, eq=False)
class ApiState:
    """The state of one app.

    Attributes:
        served_names: of all versions that were the champion: who uses one goes on with the next.
        is_draining: the service is about to stop; requests are refused, streams go on.
        num_active: answers that are being generated or recorded now.
        prompts: threads that read large bodies, write templates and encode.
        grammars: threads that compile what answers must be.
        background: tasks that live as long as the app.
        at_work: the requests that are at work, each with the time limit that ends it.
    """

    engine: "AsyncEngine"
    recorder: Recorder
    observer: ServerObserver
    metrics: Callable[[str], tuple[bytes, str]]
    config: ServerConfig
    served_names: set[str] = field(default_factory=set)
    is_draining: bool = False
    num_active: int = 0
    at_work: set[asyncio.Timeout] = field(default_factory=set)
    background: BackgroundTasks = field(init=False)
    prompts: Workers = field(default_factory=lambda: Workers("prompts", _PROMPT_THREADS))
    grammars: Workers = field(default_factory=lambda: Workers("grammars", _GRAMMAR_THREADS))
    _encoder: "tuple[LLMEngine, asyncio.Task[PromptEncoder]] | None" = field(
        default=None, init=False
    )

    @property
    def limits(self) -> ContextLimits:
        """What a body may hold now."""
        version = self.engine.current
        return ContextLimits(
            _UNKNOWN_CONTEXT if version is None else version.manifest.max_model_len
        )

    @property
    def max_body_bytes(self) -> int:
        """The longest body that is read: as the context asks, and never above the setting."""
        return min(self.config.max_body_bytes, self.limits.max_bytes)

    def __post_init__(self) -> None:
        """Make the keeper of the tasks that live as long as the app."""
        self.background = BackgroundTasks(self.observer)

    @property
    def is_ready(self) -> bool:
        """Whether a request would be taken, and everything around the engine does its work."""
        return self.engine.is_ready and not self.is_draining and not self.background.failing

    @property
    def is_alive(self) -> bool:
        """Whether the process can still do its work: an engine that has died cannot come back."""
        return self.is_draining or self.engine.current is None or self.engine.is_ready

    def serving_version(self) -> "LLMEngine":
        """Give the champion.

        Raises:
            ApiError: none is loaded yet, or the service is about to stop (503).
        """
        if self.is_draining:
            raise shutting_down()
        version = self.engine.current
        if version is None:
            raise ApiError(
                "The model is still loading.",
                status=503,
                code="model_loading",
                retry_after_seconds=2,
            )
        return version

    def version_named(self, model: str) -> "LLMEngine":
        """Give the champion if the request means it, by one of its names or by its full tag.

        Raises:
            ApiError: it means another (404), or none is loaded (503).
        """
        version = self.serving_version()
        if model not in self.names_of(version):
            raise ApiError(
                f"The model {model!r} does not exist; this server has {version.manifest.name!r}.",
                status=404,
                param="model",
                code="model_not_found",
            )
        return version

    def names_of(self, version: "LLMEngine") -> list[str]:
        """The names that mean the champion: its own first, its full tag last."""
        own = version.manifest
        return list(dict.fromkeys((own.name, CHAMPION, *sorted(self.served_names), own.tag)))

    async def encoder_for(self, version: "LLMEngine", deadline: float | None) -> PromptEncoder:
        """Give the prompt encoder of a version; it is made once, outside the event loop.

        Raises:
            ApiError: the deadline, a time.monotonic(), has passed (504).
        """
        kept = self._encoder
        if kept is None or kept[0] is not version or (kept[1].done() and kept[1].exception()):
            limits = ContextLimits(version.manifest.max_model_len)
            parts = (version.tokenizer, version.chat_template, limits)
            made = self.prompts.run(None, PromptEncoder, *parts)
            kept = self._encoder = (version, asyncio.ensure_future(made))
        try:
            async with asyncio.timeout_at(deadline):
                # Shielded: a client that leaves must not end it for the others.
                return await asyncio.shield(kept[1])
        except TimeoutError as error:
            raise overdue() from error

    def close(self) -> None:
        """Begin no more work in threads."""
        self.prompts.close()
        self.grammars.close()

    async def wait_until_idle(self, seconds: float) -> bool:
        """Wait for the requests at work; False when some are left after the time."""
        deadline = time.monotonic() + seconds
        while (self.num_active or self.at_work) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        return not (self.num_active or self.at_work)

    async def end_answers(self) -> None:
        """End the requests that are still at work, and give them the time to say so."""
        self.is_draining = True
        now = asyncio.get_running_loop().time()
        for limit in self.at_work:
            limit.reschedule(now)
        await self.wait_until_idle(self.config.drain_seconds)


def shutting_down() -> ApiError:
    """What a request is told that comes, or is still at work, when the service stops."""
    error = ApiError(
        "The server is shutting down.", status=503, code="shutting_down", retry_after_seconds=5
    )
    error.headers["connection"] = "close"  # else the client would come back on it
    return error


def state_of(request: Request) -> ApiState:
    """Find the state of the app that a request came to."""
    state: ApiState = request.app.state.api
    return state
