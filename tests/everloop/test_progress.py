from everloop.progress import counted, counter, meter, progress_bar, stage


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
