"""Tasks on the event loop that never end: one that dies is seen, and started again."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from everloop.back_off import BackOff
from serving.openai_api.observer import ServerObserver

logger = logging.getLogger(__name__)

_SETTLED_SECONDS = 60.0


class BackgroundTasks:
    """Runs tasks for as long as the service does.

    A task that dies is logged, counted, and started again after a pause that doubles. Until it has
    then lived for as long as it was away, it counts as failing.

    Args:
        observer: hears of each death.
        first_seconds: the pause after a first death.
        most_seconds: the longest pause.
    """

    def __init__(
        self, observer: ServerObserver, first_seconds: float = 1.0, most_seconds: float = 60.0
    ) -> None:
        self.failing: set[str] = set()
        self._observer = observer
        self._pauses = first_seconds, most_seconds
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run something for ever.

        Args:
            name: for the log and the metric.
            work: begins it anew at each call.
        """
        self._tasks.append(asyncio.create_task(self._keep_running(name, work), name=name))

    async def stop(self) -> None:
        """End all tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _keep_running(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        back_off, pause = BackOff(*self._pauses), 0.0
        while True:
            recovery = asyncio.get_running_loop().call_later(pause, self.failing.discard, name)
            started, error = time.monotonic(), None
            try:
                await work()
            except Exception as caught:  # noqa: BLE001 - whatever it was, it is logged below
                error = caught
            finally:
                recovery.cancel()
            if time.monotonic() - started >= _SETTLED_SECONDS:
                back_off.succeeded()
            pause = back_off.failed()
            self.failing.add(name)
            self._observer.background_failure(name)
            logger.error(
                "background task %s died: %s; starting it again in %g seconds",
                *(name, error or "it ended", pause),
                exc_info=error,
            )
            await asyncio.sleep(pause)
