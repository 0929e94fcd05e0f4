"""The worker and its real rounds: what fails is said, and tried again later and later."""

import logging
import threading
from pathlib import Path

import pytest

from everloop.process_status import ROUNDS, read_status, write_status
from everloop.registry import Registry
from everloop.settings import Home, RunFile
from feedback.store.store import open_store
from feedback.worker import run_worker
from tests.tiny_model import make_tiny_version

RUN = RunFile.load(None, ("loop.interval_seconds=0.001", "loop.max_retry_seconds=0.008"))


class Looks(threading.Event):
    """A stop that comes after so many waits, and remembers them; nothing is really waited for."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.waits: list[float] = []
        self._looks = looks

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(round(timeout or 0.0, 6))
        if len(self.waits) > self._looks:
            self.set()
        return self.is_set()


@pytest.fixture
def champion(home: Home, tmp_path: Path) -> Home:
    """A home whose champion cannot be trained on: its checkpoint is not there."""
    version = Registry(home).save(make_tiny_version(tmp_path / "version"))
    store = open_store(home.database_url)
    store.record_model_version(version)
    store.deploy(version.tag, "promote", "test")
    store.close()
    return home


def break_champion(home: Home) -> None:
    """Rounds of this home raise what is no error of ours: a full disk looks like that too."""
    (home.root / "store.sqlite").unlink(missing_ok=True)
    (home.root / "store.sqlite").mkdir()


def messages(caplog: pytest.LogCaptureFixture, part: str) -> list[str]:
    return [record.message for record in caplog.records if part in record.message]


def test_failing_rounds_wait_longer_each_time_and_say_why(home, caplog):
    break_champion(home)
    stop = Looks(5)
    run_worker(home, RUN, stop)
    assert stop.waits == [0.0, 0.001, 0.002, 0.004, 0.008, 0.008]
    lines = messages(caplog, "round failed: ")
    assert len(lines) == 5
    assert all("store.sqlite" in line for line in lines)
    assert lines[-1].endswith("The next one is in 0.008 seconds (failures in a row: 5).")
    status = read_status(home.status / ROUNDS)
    assert (status["failed"], status["failed_in_a_row"], status["is_running"]) == (5, 5, False)
    assert "store.sqlite" in status["reason"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), MemoryError(), KeyError("x")]
)
def test_round_that_raises_anything_ends_no_worker(home, caplog, monkeypatch, error):
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr("feedback.loop.open_store", full)
    stop = Looks(2)
    run_worker(home, RUN, stop)
    assert len(stop.waits) == 3
    assert len(messages(caplog, type(error).__name__)) == 2
    assert any(record.exc_info for record in caplog.records)


def test_pauses_start_over_after_a_round_that_did_not_fail(champion, caplog):
    write_status(champion.status / ROUNDS, {"failed": 7, "failed_in_a_row": 3, "next_at": 0.0})
    stop = Looks(2)
    run_worker(champion, RUN, stop)
    assert stop.waits == [0.0, 0.001, 0.001]
    status = read_status(champion.status / ROUNDS)
    assert (status["failed"], status["failed_in_a_row"], status["reason"]) == (7, 0, None)


def test_home_without_a_champion_is_looked_at_again_in_time(home, caplog):
    caplog.set_level(logging.INFO)
    stop = Looks(4)
    run_worker(home, RUN, stop)
    assert stop.waits == [0.0, *[0.001] * 4]
    assert read_status(home.status / ROUNDS)["failed"] == 0
    assert messages(caplog, "has no champion")


def test_round_that_killed_its_process_counts_as_failed(home, caplog):
    write_status(
        home.status / ROUNDS,
        {"failed": 1, "failed_in_a_row": 1, "next_at": 0.0, "is_running": True},
    )
    stop = Looks(1)
    run_worker(home, RUN, stop)
    assert stop.waits[0] == pytest.approx(0.002, abs=0.001)
    assert messages(caplog, "its process ended in the middle")
    assert read_status(home.status / ROUNDS)["failed"] == 2


def test_status_that_is_damaged_says_nothing(home):
    home.status.mkdir()
    (home.status / ROUNDS).write_bytes(b"\xff{")
    run_worker(home, RUN, Looks(1))
    assert read_status(home.status / ROUNDS)["failed"] == 0


def test_worker_ends_at_once_when_it_is_stopped(home):
    stop = threading.Event()
    stop.set()
    run_worker(home, RunFile.load(None), stop)
    assert not (home.status / ROUNDS).exists()
