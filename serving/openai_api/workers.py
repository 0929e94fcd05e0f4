"""Threads that do what a request costs before the engine has it, away from the event loop.

A thread cannot be ended from outside. So what one call may cost is bounded before it is made
(context_limits, everloop.template_sandbox, serving.engine.grammar_limits), who waits is told when
its time is over, and what has not begun by then never does.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from everloop.errors import QueueFullError
from serving.openai_api.errors import overdue

T = TypeVar("T")

_MAX_WAITING = 512  # calls; more come only when the engine's own queue has long been full


class Workers:
    """A few threads for one kind of work, so that no kind waits for another.

    Args:
        name: of the kind.
        num_threads: that work at once.

    Attributes:
        num_begun: calls that a thread has taken, for whoever counts.
    """

    def __init__(self, name: str, num_threads: int) -> None:
        self.num_begun = 0
        self._name = name
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix=name)
        self._num_waiting = 0

    async def run(
        self, deadline: float | None, function: Callable[..., T], *args: Any, **kwargs: Any
    ) -> T:
        """Call a function in a thread.

        Args:
            deadline: time.monotonic() after which nobody waits any longer; None for never.
            function: is called with the other arguments.

        Returns:
            What it gives; what it raises is raised.

        Raises:
            ApiError: the deadline has passed (504).
            QueueFullError: too many calls wait.
        """
        if self._num_waiting >= _MAX_WAITING:
            raise QueueFullError(f"Too many requests wait for {self._name}. Try again later.")
        self._num_waiting += 1
        try:
            future = self._pool.submit(self._begin, partial(function, *args, **kwargs))
            async with asyncio.timeout_at(deadline) as limit:  # the loop's clock is monotonic too
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            if limit.expired():
                raise overdue() from error
            raise
        finally:
            self._num_waiting -= 1

    def close(self) -> None:
        """Begin nothing more; what is at work ends by its own bounds."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, call: Callable[[], T]) -> T:
        self.num_begun += 1
        return call()
