"""The engine beside an event loop: one thread that steps every loaded model version in turn.

The thread shares nothing with the loop but an inbox of commands; the outputs of a round of steps
reach the loop by one callback. Methods whose names end in `_in_thread` run there, all others on
the loop.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from everloop.errors import EngineStoppedError, QueueFullError
from everloop.manifest import Manifest
from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine
from serving.engine.loaded_version import LoadedVersion
from serving.engine.observer import EngineObserver
from serving.engine.output_stream import OutputStream
from serving.engine.row_errors import row_error
from serving.engine.sampling_params import SamplingParams
from serving.engine.sequence import RequestOutput
from serving.engine.version_loader import VersionLoader

logger = logging.getLogger(__name__)

_ABORT_SECONDS = 10.0  # for the step that is running when requests are aborted
_MAX_RETRY_SECONDS = 60.0


class AsyncEngine:
    """Serves requests from asyncio, and swaps model versions without losing one.

    Args:
        config: of every version that is loaded.
        observer: called in the engine's thread.
    """

    def __init__(self, config: EngineConfig, observer: EngineObserver | None = None) -> None:
        self._config = config
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._versions: list[LoadedVersion] = []
        self._current: LoadedVersion | None = None
        self._swap_lock = asyncio.Lock()
        self._finish_times: deque[float] = deque(maxlen=32)
        self._thread: threading.Thread | None = None
        self._loader = VersionLoader(partial(LLMEngine.load, config=config, observer=observer))
        self._is_accepting = False
        # Of the thread alone.
        self._stepping: list[LoadedVersion] = []
        self._is_halted = False

    @property
    def current(self) -> LLMEngine | None:
        """The version that answers."""
        return self._current.engine if self._current else None

    @property
    def versions(self) -> list[str]:
        """Tags of the loaded versions: the current one, and those that still drain."""
        return [version.engine.manifest.tag for version in self._versions]

    @property
    def is_ready(self) -> bool:
        """Whether a request would be served now."""
        is_running = self._thread is not None and self._thread.is_alive()
        return is_running and self._is_accepting and self._current is not None

    async def start(self) -> None:
        """Start the engine's thread."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run_in_thread, name="engine", daemon=True)
        self._is_accepting = True
        self._thread.start()

    async def stop(self, drain_seconds: float) -> None:
        """Refuse new requests, let the others finish, abort what is left, and end the thread."""
        self._is_accepting = False
        await asyncio.gather(*(self._drain(version, drain_seconds) for version in self._versions))
        self._inbox.put(self._halt_in_thread)
        if self._thread:
            await asyncio.to_thread(self._thread.join, _ABORT_SECONDS)
        self._loader.close()
        self._versions.clear()
        self._current = None

    async def swap(self, folder: Path, grace_seconds: float) -> Manifest:
        """Load a version, make it the current one, and drop the one before.

        The new version answers from the moment that it is loaded; requests of the old one have
        the grace to finish and are aborted after it. Returns when the old one is gone.

        Raises:
            ArtifactError, ConfigError: the version cannot be loaded, or does not fit beside those
                that are loaded; nothing has changed.
            EngineStoppedError: the engine is shutting down.
        """
        async with self._swap_lock:
            self._check_accepting()
            loaded_bytes = sum(version.engine.memory.total for version in self._versions)
            engine = await self._loader.load(folder, loaded_bytes)
            self._check_accepting()
            max_unfinished = engine.config.max_num_seqs + self._config.max_queue
            previous, self._current = self._current, LoadedVersion(engine, max_unfinished)
            self._versions.append(self._current)
            self._inbox.put(partial(self._stepping.append, self._current))
        # Outside the lock: a rollback must not wait until the version before has drained.
        if previous:
            await self._drain(previous, grace_seconds)
            if self._is_accepting:  # else everything is being dropped
                self._versions.remove(previous)
                self._inbox.put(partial(self._stepping.remove, previous))
        return engine.manifest

    def generate(
        self,
        prompt_token_ids: list[int],
        params: SamplingParams,
        request_id: str,
        version: LLMEngine | None = None,
        *,
        tenant: str = "",
        deadline: float | None = None,
    ) -> OutputStream:
        """Queue a request with the current version, or another loaded one, as of this call.

        Args:
            prompt_token_ids: at least one token.
            params: how to sample and when to end.
            request_id: unique among the unfinished requests of the version.
            version: None for the current one.
            tenant: who asks; the engine is shared fairly among those whose requests wait.
            deadline: time.monotonic() at which the request ends with the reason `timeout`.

        Raises:
            PromptTooLongError, DataError: the model cannot take it, or the id is in use.
            QueueFullError: too many requests are waiting.
            EngineStoppedError: the engine is shutting down, or has no such version.
        """
        target = self._find(version)
        target.engine.check_request(prompt_token_ids, params)
        add = partial(target.engine.add_request, tenant=tenant, deadline=deadline)
        add = partial(add, request_id, prompt_token_ids, params, time.monotonic())
        return self._submit(target, request_id, tenant, add)

    async def embed(
        self,
        prompt_token_ids: list[int],
        request_id: str,
        version: LLMEngine | None = None,
        *,
        tenant: str = "",
    ) -> NDArray[np.float32]:
        """Give the mean of a text's hidden states, (D,). Cancelling it aborts the request.

        Raises:
            PromptTooLongError, DataError: the model cannot take it or gives no hidden states, or
                the id is in use.
            QueueFullError: too many requests are waiting.
            EngineStoppedError: the engine is shutting down, or has no such version.
        """
        target = self._find(version)
        target.engine.check_embedding(prompt_token_ids)
        add = partial(target.engine.add_embedding, tenant=tenant)
        add = partial(add, request_id, prompt_token_ids, time.monotonic())
        async for output in self._submit(target, request_id, tenant, add):
            if output.embedding is not None:
                return output.embedding
        raise EngineStoppedError("the engine stopped before the text was embedded; send it again.")

    def _submit(
        self, target: LoadedVersion, request_id: str, tenant: str, add: Callable[[], None]
    ) -> OutputStream:
        try:
            mailbox = target.open(request_id, tenant)
        except QueueFullError as error:
            error.retry_after_seconds = self._retry_after_seconds()
            raise
        self._inbox.put(partial(self._command_in_thread, target, request_id, add))
        return OutputStream(request_id, mailbox, partial(self._abort, target, request_id))

    def _check_accepting(self) -> None:
        if not self._is_accepting:
            raise EngineStoppedError("the engine is not running; try again when it is.")

    def _find(self, engine: LLMEngine | None) -> LoadedVersion:
        self._check_accepting()
        if engine is None and self._current:
            return self._current
        for version in self._versions:
            if version.engine is engine:
                return version
        raise EngineStoppedError("no such model version is loaded; try again with the current one.")

    def _retry_after_seconds(self) -> float:
        """Time in which one request finishes, by the last few."""
        times = self._finish_times
        seconds = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1.0
        return min(max(seconds, 1.0), _MAX_RETRY_SECONDS)

    def _abort(self, version: LoadedVersion, request_id: str) -> None:
        abort = partial(version.engine.abort_request, request_id)
        self._inbox.put(partial(self._command_in_thread, version, request_id, abort))

    async def _drain(self, version: LoadedVersion, seconds: float) -> None:
        try:
            await asyncio.wait_for(version.idle.wait(), seconds)
        except TimeoutError:
            logger.warning("drain ended, aborting requests=%d", len(version.mailboxes))
            for request_id in version.mailboxes:
                self._abort(version, request_id)
            try:
                await asyncio.wait_for(version.idle.wait(), _ABORT_SECONDS)
            except TimeoutError:
                version.fail_all()

    def _deliver(self, round_outputs: list[tuple[LoadedVersion, list[RequestOutput]]]) -> None:
        for version, outputs in round_outputs:
            for output in outputs:
                if output.request_id in version.mailboxes:
                    version.deliver(output)
                if output.finish_reason:
                    self._finish_times.append(time.monotonic())

    def _give_up(self) -> None:
        self._is_accepting = False
        for version in self._versions:
            version.fail_all()

    def _run_in_thread(self) -> None:
        """Step until the engine is stopped; no exception ends it, a failed recovery does."""
        try:
            while not self._is_halted:
                try:
                    self._round_in_thread()
                except BaseException:
                    logger.exception("a round of the engine failed, every version begins anew")
                    self._deliver_in_thread([(one, one.engine.reset()) for one in self._stepping])
        except BaseException:
            logger.exception("the engine's thread died")
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._give_up)

    def _round_in_thread(self) -> None:
        self._take_commands_in_thread()
        versions = [version for version in self._stepping if version.engine.has_unfinished]
        self._deliver_in_thread([(version, self._step_in_thread(version)) for version in versions])

    def _step_in_thread(self, version: LoadedVersion) -> list[RequestOutput]:
        """Step a version; if that raises, its requests fail and those of other versions do not."""
        try:
            return version.engine.step()
        except BaseException:
            logger.exception("a step failed, version=%s begins anew", version.engine.manifest.tag)
            return version.engine.reset()

    def _deliver_in_thread(
        self, round_outputs: list[tuple[LoadedVersion, list[RequestOutput]]]
    ) -> None:
        if any(outputs for _, outputs in round_outputs):
            self._loop.call_soon_threadsafe(self._deliver, round_outputs)

    def _command_in_thread(
        self, version: LoadedVersion, request_id: str, command: Callable[[], None]
    ) -> None:
        """Add or abort a request; if that raises, this request fails and no other does."""
        try:
            command()
        except BaseException as raised:  # noqa: BLE001 - its request alone is told
            error = row_error(request_id, raised)
            failed = RequestOutput(request_id, "", (), "error", error=error)
            self._deliver_in_thread([(version, [failed])])

    def _take_commands_in_thread(self) -> None:
        """Run what the loop asked for; without unfinished requests, wait for it."""
        if not any(version.engine.has_unfinished for version in self._stepping):
            self._inbox.get()()
        while not self._inbox.empty():
            self._inbox.get()()

    def _halt_in_thread(self) -> None:
        self._is_halted = True
