from everloop.progress import progress_bar


def test_progress_bar_writes_to_stderr() -> None:
    assert progress_bar().console.stderr
