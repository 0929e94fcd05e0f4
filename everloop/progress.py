"""Progress bars of long work, on stderr so that stdout keeps the result alone."""

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def progress_bar() -> Progress:
    """Make a bar with the time that has passed and, where the end is known, the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def counter(progress: Progress | None, title: str) -> Callable[[int], None] | None:
    """A function that shows how many things are done, where their number is not known before."""
    if progress is None:
        return None
    task = progress.add_task(title, total=None)

    def show(done: int) -> None:
        progress.update(task, completed=done, description=f"{title}: {done:,}")

    return show
