"""The BentoML service: wires engine, API, store and metrics into one process.

`serving/server.py` runs it, started by `serving/launch.py`. The home folder, the database and the
run file come from the environment (ServiceSettings), read when the service starts: BentoML's
builder imports the module too, and it does nothing there.
"""

import asyncio
import contextlib
import logging
import os
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import bentoml
from filelock import FileLock, Timeout
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from everloop import log
from everloop.errors import ConfigError, StoreError
from everloop.registry import Registry
from everloop.settings import Home, RunFile, Settings

if TYPE_CHECKING:
    from feedback.store.store import Store
    from monitoring.metrics import Metrics
    from serving.openai_api.state import ApiState

logger = logging.getLogger(__name__)

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
        _refuse_open_supervisor()
        # Prometheus in its one-process mode, which it chooses when it is imported; and imports here
        # rather than above, so that BentoML's builder, which serves nothing, does not load them.
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
        from prometheus_client import CollectorRegistry

        from feedback.store.store import open_store
        from feedback.store.writer import StoreConfig, StoreWriter
        from monitoring.metrics import Metrics
        from monitoring.status_metrics import StatusCollector
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
        registry = CollectorRegistry()
        registry.register(StatusCollector(home.status))
        metrics = Metrics(registry)
        self._engine = AsyncEngine(engine_config, metrics)
        await self._engine.start()
        self.app = create_app(self._engine, self._writer, metrics, metrics.render, config)
        self._lifespan = contextlib.AsyncExitStack()
        await self._lifespan.enter_async_context(self.app.router.lifespan_context(self.app))
        follow = partial(_follow, self._api, self._store, home, metrics)
        self._api.background.start("champion", follow)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """End what is left of the answers, write what is queued, close the store."""
        await self._api.end_answers()
        await self._api.background.stop()
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


class EveryPath:
    """Pass paths with a line break, which the mount above the API does not match, to it as well."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        app = api if "\n" in scope.get("path", "") else self._app
        await app(scope, receive, send)


Everloop.add_asgi_middleware(EveryPath)  # type: ignore[attr-defined]  # made a service above


def _hold(home: Home) -> FileLock:
    lock = FileLock(home.server_lock)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ConfigError(
            f"another server runs on the home folder {home.root}. Stop it, or use another --home."
        ) from error
    return lock


async def _follow(api: "ApiState", store: "Store", home: Home, metrics: "Metrics") -> None:
    from serving.champion import ChampionFollower

    follower = ChampionFollower(
        api.engine, store, Registry(home), metrics, api.config, api.served_names
    )
    await follower.run()


def make_app() -> Starlette:
    """Make BentoML's app of the service; its lifespan starts and stops the service."""
    app: Starlette = Everloop.to_asgi()  # type: ignore[attr-defined]
    return app


def current_state() -> "ApiState":
    """The state of this process's service, once it has started."""
    state: ApiState = bentoml.get_current_service().app.state.api
    return state


def _refuse_open_supervisor() -> None:
    """End BentoML's supervisor where one has started this process.

    It listens on a loopback port and does what anybody says there: `add` runs a command as us.

    Raises:
        ConfigError: there is one.
    """
    if bentoml.server_context.worker_index is None:
        return
    os.kill(os.getppid(), signal.SIGTERM)
    raise ConfigError(
        "`bentoml serve` is refused: its supervisor takes commands from every user of this machine "
        "through a port without authentication. Start the service by `everloop serve`."
    )
