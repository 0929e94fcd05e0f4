"""The BentoML service: wires engine, API, store and metrics into one process.

    bentoml serve serving.service:Everloop

`serving/launch.py` runs that with its checks and its environment. The home folder, the database and
the run file come from the environment (ServiceSettings), read when the service starts: the module
itself is imported by BentoML's supervisor too, and by the builder, and does nothing there.
"""

import asyncio
import contextlib
import logging
import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import bentoml
from filelock import FileLock, Timeout
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from everloop import log
from everloop.errors import ConfigError, EverloopError, StoreError
from everloop.registry import Registry
from everloop.settings import Home, RunFile, Settings

if TYPE_CHECKING:
    from feedback.store.store import Store
    from monitoring.metrics import Metrics
    from serving.engine.async_engine import AsyncEngine
    from serving.openai_api.config import ServerConfig
    from serving.openai_api.state import ApiState

logger = logging.getLogger(__name__)

_PARENT_CHECK_SECONDS = 1.0
_FLUSH_SECONDS = 10.0
_CUT_SECONDS = 0.1


class ServiceSettings(Settings):
    """The environment of the service: besides the home, `EVERLOOP_CONFIG` and `EVERLOOP_SET`."""

    config: Path | None = None  # the TOML of the run
    set: str = ""  # `table.key=value`, one a line

    def run_file(self) -> RunFile:
        """Read the run file with the overrides laid over it.

        Raises:
            ConfigError: see RunFile.load.
        """
        return RunFile.load(self.config, tuple(filter(None, map(str.strip, self.set.split("\n")))))


async def api(scope: Scope, receive: Receive, send: Send) -> None:
    """Pass a request to the API of this process's service."""
    await bentoml.get_current_service().app(scope, receive, send)


@bentoml.service(
    name="everloop",
    workers=1,
    traffic={"timeout": 3600},
    metrics={"enabled": False},
    tracing={"excluded_urls": ".*"},
    logging={"access": {"enabled": False}},
)
@bentoml.asgi_app(api, path="/")
class Everloop:
    """The service: started and stopped by BentoML, in this order and on one event loop.

    Attributes:
        app: the API, once the service has started.
    """

    app: Starlette

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """Open the store, start the engine, and load the champion in the background.

        Raises:
            ConfigError: a setting is wrong, or another server holds this home folder.
            StoreError: the database cannot be used.
        """
        try:
            await self._start()
        except EverloopError as error:
            logger.error("the service cannot start: %s", error)
            _end_supervisor()
            raise

    async def _start(self) -> None:
        # Prometheus in its one-process mode, which it chooses when it is imported; and imports here
        # rather than above, so that the supervisor, which serves nothing, does not load them too.
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
        from prometheus_client import CollectorRegistry

        from feedback.store.store import open_store
        from feedback.store.writer import StoreConfig, StoreWriter
        from monitoring.metrics import Metrics
        from serving.engine.async_engine import AsyncEngine
        from serving.engine.config import EngineConfig
        from serving.openai_api.app import create_app
        from serving.openai_api.config import ServerConfig

        settings = ServiceSettings()
        log.configure(settings.log_level)
        logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
        run_file = settings.run_file()
        home = Home(settings.home, settings.database_url).create()
        config = run_file.table("server", ServerConfig)
        engine_config = run_file.table("engine", EngineConfig)
        store_config = run_file.table("store", StoreConfig)
        self._lock = _hold(home)
        self._store = await asyncio.to_thread(open_store, home.database_url)
        self._writer = StoreWriter(self._store.engine, store_config)
        metrics = Metrics(CollectorRegistry())
        self._engine = AsyncEngine(engine_config, metrics)
        await self._engine.start()
        self.app = create_app(self._engine, self._writer, metrics, metrics.render, config)
        self._lifespan = contextlib.AsyncExitStack()
        await self._lifespan.enter_async_context(self.app.router.lifespan_context(self.app))
        follow = _follow(self._engine, self._store, home, metrics, config)
        self._tasks = [asyncio.create_task(follow), asyncio.create_task(_watch_parent())]
        _announce_shutdown(self._api)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """End what is left of the answers, write what is queued, close the store."""
        self._api.is_draining = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # BentoML has waited for the streams; those that it cut are ended and recorded here.
        await self._engine.stop(_CUT_SECONDS)
        await self._api.wait_until_idle(self._api.config.drain_seconds)
        await self._lifespan.aclose()
        try:
            await asyncio.to_thread(self._writer.close, _FLUSH_SECONDS)
        except StoreError as error:
            logger.error("stopped with records unwritten: %s", error)
        self._store.close()
        self._lock.release()
        logger.info("service stopped")

    @property
    def _api(self) -> "ApiState":
        state: ApiState = self.app.state.api
        return state

    async def __is_ready__(self) -> bool:
        """Answer BentoML's /readyz."""
        return self._api.is_ready

    async def __is_alive__(self) -> bool:
        """Answer BentoML's /livez and /healthz."""
        return self._api.is_alive


def _hold(home: Home) -> FileLock:
    lock = FileLock(home.server_lock)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ConfigError(
            f"another server runs on the home folder {home.root}. Stop it, or use another --home."
        ) from error
    return lock


async def _follow(
    engine: "AsyncEngine", store: "Store", home: Home, metrics: "Metrics", config: "ServerConfig"
) -> None:
    from serving.champion import ChampionFollower

    registry = Registry(home)
    await asyncio.to_thread(import_packed_models, registry)
    await ChampionFollower(engine, store, registry, metrics, config).run()


def import_packed_models(registry: Registry) -> None:
    """Copy the model versions that came inside a Bento into the home's model store."""
    known = {version.tag for version in registry.list()}
    for model in bentoml.models.list():
        if str(model.tag) not in known:
            registry.save(Path(model.path))


def _announce_shutdown(state: "ApiState") -> None:
    """Refuse new requests from the moment that the process is asked to stop; streams go on."""
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread may handle signals; in a test the service runs elsewhere
    for number in (signal.SIGTERM, signal.SIGINT):
        previous = signal.getsignal(number)

        def drain(number: int, frame: FrameType | None, previous: object = previous) -> None:
            state.is_draining = True
            if callable(previous):
                previous(number, frame)

        signal.signal(number, drain)


def _end_supervisor() -> None:
    """Stop BentoML's supervisor, which would start a worker that cannot work again for ever."""
    if bentoml.server_context.worker_index is not None:
        os.kill(os.getppid(), signal.SIGTERM)


async def _watch_parent() -> None:
    """Stop when the supervisor has been killed: nobody else would end this process."""
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(_PARENT_CHECK_SECONDS)
    logger.warning("the supervisor is gone; stopping")
    os.kill(os.getpid(), signal.SIGTERM)
