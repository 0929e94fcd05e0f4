"""Keep the engine on the champion: follow the store's deployments and swap when they change.

Which version is the champion is decided elsewhere; here it is only loaded, and the outcome written
back. The store is a Protocol: serving does not import feedback.
"""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Literal, Protocol

from everloop.errors import EngineStoppedError, EverloopError, StoreError
from everloop.registry import ModelVersion, Registry
from serving.engine.async_engine import AsyncEngine
from serving.openai_api.config import ServerConfig
from serving.openai_api.observer import ServerObserver

logger = logging.getLogger(__name__)

_SWAP_CHECK_SECONDS = 0.02
_MAX_DETAIL = 500
_FIRST = "the first version of this home"


class Deployment(Protocol):
    """What is read of a deployment."""

    @property
    def id(self) -> int:
        """Its number; a newer one is higher."""

    @property
    def model_version(self) -> str:
        """Tag of the version to serve."""

    @property
    def status(self) -> Literal["pending", "live", "failed"]:
        """Pending until a server has swapped."""


class DeploymentStore(Protocol):
    """What is needed of the store; its calls block for a moment."""

    def champion(self) -> Deployment | None:
        """The newest deployment that has not failed."""

    def deployments(self) -> Sequence[Deployment]:
        """All deployments, newest first."""

    def mark_deployment(
        self, deployment_id: int, status: Literal["live", "failed"], detail: str | None = None
    ) -> None:
        """Say what became of a deployment."""

    def record_model_version(self, version: ModelVersion) -> None:
        """Make a version known to the store."""

    def deploy(self, tag: str, action: Literal["promote", "rollback"], reason: str) -> Deployment:
        """Make a version the champion."""


class ChampionFollower:
    """Loads the champion, and every later one.

    Args:
        engine: is started, may be empty.
        store: names the champion.
        registry: has its files.
        observer: hears of swaps.
        config: pace of the polling, grace for replaced versions.
        served_names: takes the names of all versions that were the champion.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        store: DeploymentStore,
        registry: Registry,
        observer: ServerObserver,
        config: ServerConfig,
        served_names: set[str],
    ) -> None:
        self._engine = engine
        self._store = store
        self._registry = registry
        self._observer = observer
        self._config = config
        self._served_names = served_names
        self._swaps: set[asyncio.Task[object]] = set()
        self._refused: set[str] = set()
        self._refusals: dict[int, str] = {}  # deployment -> why
        self._is_store_away = False

    async def run(self) -> None:
        """Follow the store until cancelled."""
        while True:
            try:
                await self.follow_once()
                self._is_store_away = False
            except StoreError as error:
                # The champion in memory goes on answering; one line per outage, not per second.
                if not self._is_store_away:
                    logger.warning("deployments cannot be read: %s", error)
                self._is_store_away = True
            await asyncio.sleep(self._config.poll_seconds)

    async def follow_once(self) -> None:
        """Look at the store once, and swap if the champion is not the version that answers.

        Raises:
            StoreError: the store cannot be read or written.
        """
        deployment = await asyncio.to_thread(self._champion)
        if deployment is None:
            return
        tag = deployment.model_version
        if self._running_tag != tag:
            if deployment.id not in self._refusals:
                await self._try(deployment)
            if deployment.id in self._refusals:
                await self._mark(deployment, "failed", self._refusals[deployment.id])
                return
        if deployment.status == "pending":
            await self._mark(deployment, "live", None)

    @property
    def _running_tag(self) -> str | None:
        return self._engine.current.manifest.tag if self._engine.current else None

    def _champion(self) -> Deployment | None:
        """The store's champion; a home's first is the newest version that can be loaded."""
        deployment = self._store.champion()
        if deployment is not None:
            return deployment
        versions = [one for one in self._registry.list() if one.tag not in self._refused]
        if not versions:
            return None
        self._store.record_model_version(versions[-1])
        reason = "the newest version that can be loaded" if self._refused else _FIRST
        return self._store.deploy(versions[-1].tag, "promote", reason)

    async def _try(self, deployment: Deployment) -> None:
        """Swap; whatever the version raises, it is refused for that, and the next is looked at."""
        tag = deployment.model_version
        try:
            await self._swap(tag)
        except (EngineStoppedError, StoreError):
            raise  # no fault of the version
        except Exception as error:
            known = isinstance(error, EverloopError)
            text = str(error) if known else f"{type(error).__name__}: {error}"
            # Kept until it is written: with the store away it must not be loaded once a second.
            self._refusals[deployment.id] = text[:_MAX_DETAIL]
            self._refused.add(tag)
            self._observer.swap("failed")
            logger.error("swap failed version=%s: %s", tag, text, exc_info=None if known else error)

    async def _swap(self, tag: str) -> None:
        """Return as soon as the new version answers; the old one drains behind it."""
        version = await asyncio.to_thread(self._registry.get, tag)
        # Before the swap, so that a client of the version before never meets a server that does
        # not know its name.
        history = await asyncio.to_thread(self._store.deployments)
        lived = (each.model_version for each in history if each.status == "live")
        self._served_names.update(each.partition(":")[0] for each in lived)
        swap = asyncio.create_task(self._engine.swap(version.path, self._config.swap_grace_seconds))
        self._swaps.add(swap)
        swap.add_done_callback(partial(self._after_swap, tag))
        while not swap.done() and self._running_tag != tag:
            await asyncio.sleep(_SWAP_CHECK_SECONDS)
        if swap.done():
            await swap
        manifest, answering = version.manifest, self._engine.current
        self._observer.swap("ok")
        self._observer.model(
            tag,
            manifest.version,
            manifest.weight_precision,
            "CPUExecutionProvider",
            answering is not None and answering.batch_invariant,
        )
        logger.info("champion live version=%s", tag)

    def _after_swap(self, tag: str, swap: "asyncio.Task[object]") -> None:
        self._swaps.discard(swap)
        error = None if swap.cancelled() else swap.exception()
        if error is not None and self._running_tag == tag:
            # It answers; only the version before it did not go as it should.
            logger.error("the version before %s was not dropped", tag, exc_info=error)

    async def _mark(
        self, deployment: Deployment, status: Literal["live", "failed"], detail: str | None
    ) -> None:
        await asyncio.to_thread(self._store.mark_deployment, deployment.id, status, detail)
