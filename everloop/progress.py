"""Progress bars of long work, on stderr so that stdout keeps the result alone.

Where stderr is a file or a pipe, which no bar can move in, a line is written now and then instead.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")
_SHOWN_EVERY = 100
LINE_SECONDS = 10.0


def progress_bar() -> Progress:
    """Make a bar with the time that has passed and, where the end is known, the time left."""
    return PipedProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


class PipedProgress(Progress):
    """Bars on a terminal; elsewhere the newest state of each, as a line every few seconds."""

    def __init__(
        self,
        *columns: ProgressColumn,
        console: Console,
        line_seconds: float = LINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(*columns, console=console)
        self._line_seconds, self._clock = line_seconds, clock
        self._written: dict[TaskID, float] = {}

    def update(self, task_id: TaskID, **fields: Any) -> None:
        """Change what is known of a task, and write it down when it is time."""
        super().update(task_id, **fields)
        self._write(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Say how much more of a task is done, and write it down when it is time."""
        super().advance(task_id, advance)
        self._write(task_id)

    def _write(self, task_id: TaskID) -> None:
        if self.console.is_terminal:
            return
        now = self._clock()
        if now - self._written.setdefault(task_id, now) < self._line_seconds:
            return
        self._written[task_id] = now
        task = next(task for task in self.tasks if task.id == task_id)
        share = "" if task.total is None else f" · {task.percentage:.0f} %"
        line = f"{task.description}{share} · {task.elapsed or 0:.0f} s"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def counter(progress: Progress | None) -> Callable[[str, int], None] | None:
    """A function that shows how many things are done, where their number is not known before.

    Its arguments are what is counted, which gets a line of its own, and how many there are so far.
    """
    if progress is None:
        return None
    tasks: dict[str, TaskID] = {}

    def show(title: str, done: int) -> None:
        if title not in tasks:
            if not done:
                return
            tasks[title] = progress.add_task(title, total=None)
        progress.update(tasks[title], completed=done, description=f"{title}: {done:,}")

    return show


def meter(progress: Progress | None, title: str, total: int) -> Callable[[int], None]:
    """A bar of work whose size is known; the function takes how much more of it is done."""
    if progress is None:
        return lambda _: None
    task = progress.add_task(title, total=total)
    return lambda more: progress.advance(task, more)


@contextmanager
def stage(progress: Progress | None, title: str) -> Iterator[None]:
    """Show that work goes on whose steps nobody counts, and how long it took."""
    task = None if progress is None else progress.add_task(title, total=None)
    yield
    if progress is not None and task is not None:
        progress.update(task, total=1, completed=1)


def counted(things: Iterable[T], progress: Progress | None, title: str, total: int) -> Iterator[T]:
    """Pass things on while a bar shows how many of all have passed."""
    if progress is None:
        yield from things
        return
    task = progress.add_task(title, total=total)
    for number, thing in enumerate(things, start=1):
        yield thing
        if number % _SHOWN_EVERY == 0:
            progress.update(task, completed=number)
    progress.update(task, completed=total)
