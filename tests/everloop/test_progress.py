import io

from rich.console import Console
from rich.progress import TextColumn

from everloop.progress import PipedProgress, counted, counter, meter, progress_bar, stage


def test_progress_bar_writes_to_stderr() -> None:
    assert progress_bar().console.stderr


def test_counter_gives_each_title_a_line() -> None:
    bar = progress_bar()
    show = counter(bar)
    assert show is not None
    for title, done in (("read", 0), ("read", 1200), ("write", 3), ("read", 1300)):
        show(title, done)
    assert [(task.description, task.completed) for task in bar.tasks] == [
        ("read: 1,300", 1300), ("write: 3", 3),
    ]  # fmt: skip
    assert counter(None) is None


def test_counted_passes_everything_on_and_fills_its_bar() -> None:
    bar = progress_bar()
    assert list(counted(range(250), bar, "encode", 250)) == list(range(250))
    assert [(task.completed, task.total) for task in bar.tasks] == [(250, 250)]
    assert list(counted("ab", None, "encode", 2)) == ["a", "b"]


def test_meter_fills_its_bar_by_what_is_done() -> None:
    bar = progress_bar()
    show = meter(bar, "write", 10)
    show(3)
    show(7)
    assert [(task.completed, task.total) for task in bar.tasks] == [(10, 10)]
    meter(None, "write", 10)(3)


def test_stage_is_done_when_its_work_is() -> None:
    progress = progress_bar()

    with stage(progress, "write"):
        (task,) = progress.tasks
        assert (task.description, task.total, task.finished) == ("write", None, False)

    assert task.finished
    with stage(None, "nobody watches"):
        pass


def test_a_pipe_gets_a_line_now_and_then() -> None:
    pipe, now = io.StringIO(), [0.0]
    bar = PipedProgress(
        TextColumn("{task.description}"), console=Console(file=pipe), line_seconds=10,
        clock=lambda: now[0],
    )  # fmt: skip
    with bar:
        task = bar.add_task("tune", total=200)
        for second in range(35):
            now[0] = float(second)
            bar.update(task, completed=second, description=f"tune · step {second // 30} [loss]")
        other = meter(bar, "write", 10)
        other(1)
        now[0] = 50.0
        other(4)
        written = pipe.getvalue().split("\n")[:-1]
    assert [line.rpartition(" · ")[0] for line in written] == [
        "tune · step 0 [loss] · 5 %",
        "tune · step 0 [loss] · 10 %",
        "tune · step 1 [loss] · 15 %",
        "write · 50 %",
    ]


def test_a_terminal_gets_its_bar_alone() -> None:
    screen = io.StringIO()
    bar = PipedProgress(
        TextColumn("{task.description}"), console=Console(file=screen, force_terminal=True),
        line_seconds=0,
    )  # fmt: skip
    task = bar.add_task("tune", total=2)
    bar.update(task, completed=1)
    assert screen.getvalue() == ""
