"""What the handlers of one app share: engine, recorder, observer, and who is at work."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import Request

from serving.openai_api.background import BackgroundTasks
from serving.openai_api.config import ServerConfig
from serving.openai_api.errors import ApiError
from serving.openai_api.observer import ServerObserver
from serving.openai_api.prompt import PromptEncoder
from serving.openai_api.recorder import Recorder

if TYPE_CHECKING:
    from serving.engine.async_engine import AsyncEngine
    from serving.engine.llm_engine import LLMEngine


@dataclass(slots=True, eq=False)
class ApiState:
    """The state of one app.

    Attributes:
        is_draining: the service is about to stop; requests are refused, streams go on.
        num_active: answers that are being generated or recorded now.
        background: tasks that live as long as the app.
        at_work: the requests that are at work, each with the time limit that ends it.
    """

    engine: "AsyncEngine"
    recorder: Recorder
    observer: ServerObserver
    metrics: Callable[[str], tuple[bytes, str]]
    config: ServerConfig
    is_draining: bool = False
    num_active: int = 0
    at_work: set[asyncio.Timeout] = field(default_factory=set)
    background: BackgroundTasks = field(init=False)
    _encoder: "tuple[LLMEngine, PromptEncoder] | None" = field(default=None, init=False)

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
        """Give the champion if the request means it, by its name or by its full tag.

        Raises:
            ApiError: it means another (404), or none is loaded (503).
        """
        version = self.serving_version()
        manifest = version.manifest
        if model not in (manifest.name, manifest.tag):
            raise ApiError(
                f"The model {model!r} does not exist; this server has {manifest.name!r}.",
                status=404,
                param="model",
                code="model_not_found",
            )
        return version

    async def encoder_for(self, version: "LLMEngine") -> PromptEncoder:
        """Give the prompt encoder of a version; it is made once, outside the event loop."""
        kept = self._encoder
        if kept is not None and kept[0] is version:
            return kept[1]
        encoder = await asyncio.to_thread(PromptEncoder, version.tokenizer, version.chat_template)
        self._encoder = (version, encoder)
        return encoder

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
