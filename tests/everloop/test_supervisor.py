"""Processes that start together stop together; one that fails is started again."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil

from everloop.back_off import BackOff
from everloop.process_status import read_status
from everloop.supervisor import (
    PARENT_VARIABLE,
    Restarts,
    supervise,
    terminate,
    when_supervisor_ends,
)

ROOT = Path(__file__).parents[2]

# Writes its own id once it handles SIGTERM, then waits; leaves a mark when it was asked to stop.
WAITER = """
import os, pathlib, signal, sys, threading
folder, stop = pathlib.Path(sys.argv[1]), threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
(folder / "pid.part").write_text(str(os.getpid()))
(folder / "pid.part").rename(folder / "pid")
stop.wait(120)
(folder / "stopped").write_text("")
"""

LEAVER = """
import pathlib, sys, time
while not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)
sys.exit(3)
"""

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(flush=True)
time.sleep(60)
"""


def waiter(folder: Path) -> list[str]:
    return [sys.executable, "-c", WAITER, str(folder)]


def wait_for(path: Path) -> None:
    for _ in range(1200):
        if path.exists():
            return
        threading.Event().wait(0.05)
    raise AssertionError(f"{path} did not appear")


def test_command_that_could_not_start_stops_the_others_and_gives_its_code(tmp_path: Path) -> None:
    leaver = [sys.executable, "-c", LEAVER, str(tmp_path / "pid")]
    assert supervise({"a": waiter(tmp_path), "b": leaver}, grace_seconds=60) == 3
    assert (tmp_path / "stopped").exists()


def test_sigterm_stops_all_with_code_0(tmp_path: Path) -> None:
    def send() -> None:
        wait_for(tmp_path / "pid")
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    assert supervise({"a": waiter(tmp_path)}, grace_seconds=60) == 0
    sender.join()
    assert (tmp_path / "stopped").exists()


def test_terminate_kills_what_does_not_stop() -> None:
    stubborn = subprocess.Popen(
        [sys.executable, "-c", STUBBORN],
        stdout=subprocess.PIPE,
    )
    assert stubborn.stdout is not None
    stubborn.stdout.readline()
    terminate([stubborn], grace_seconds=0.2)
    stubborn.stdout.close()
    assert stubborn.returncode == -signal.SIGKILL


# Ends by itself the first times that it is started, as a process does that meets a full disk.
FAILS_AT_FIRST = """
import os, pathlib, signal, sys, threading
folder, failures, end = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
starts = len(list(folder.glob("start-*")))
(folder / f"start-{starts}").write_text(str(os.getpid()))
if starts < failures:
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(int(end))
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
(folder / "settled").write_text("")
stop.wait(120)
"""
FAST = Restarts(first_seconds=0.01, most_seconds=0.02, settled_seconds=60)


def fails_at_first(folder: Path, failures: int, end: str) -> list[str]:
    return [sys.executable, "-c", FAILS_AT_FIRST, str(folder), str(failures), end]


def stop_when(path: Path) -> threading.Thread:
    def send() -> None:
        try:
            wait_for(path)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    return sender


def test_command_that_was_killed_is_started_again_and_the_others_go_on(tmp_path, caplog) -> None:
    steady, failing = tmp_path / "steady", tmp_path / "failing"
    steady.mkdir()
    failing.mkdir()
    record = tmp_path / "status" / "restarts.json"
    sender = stop_when(failing / "settled")
    policy = dataclasses.replace(FAST, record=record)
    commands = {"a": waiter(steady), "b": fails_at_first(failing, 3, "killed")}
    assert supervise(commands, 60, policy) == 0
    sender.join()
    assert len(list(failing.glob("start-*"))) == 4
    assert (steady / "stopped").exists()
    assert read_status(record) == {
        "a": {"restarts": 0, "last_end": None},
        "b": {"restarts": 3, "last_end": "signal SIGKILL"},
    }
    lines = [one.message for one in caplog.records if "starting it again" in one.message]
    assert [line.split("in ")[-1] for line in lines] == [
        "0.01 seconds (restart 1)",
        "0.02 seconds (restart 2)",
        "0.02 seconds (restart 3)",
    ]


def test_command_that_asks_to_be_started_again_is(tmp_path) -> None:
    sender = stop_when(tmp_path / "settled")
    assert supervise({"a": fails_at_first(tmp_path, 2, "70")}, 60, FAST) == 0
    sender.join()
    assert len(list(tmp_path.glob("start-*"))) == 3


def test_command_that_fails_after_it_had_settled_is_started_again(tmp_path) -> None:
    sender = stop_when(tmp_path / "settled")
    policy = dataclasses.replace(FAST, settled_seconds=0)
    assert supervise({"a": fails_at_first(tmp_path, 2, "1")}, 60, policy) == 0
    sender.join()
    assert len(list(tmp_path.glob("start-*"))) == 3


def test_supervisor_that_is_killed_takes_its_commands_with_it(tmp_path) -> None:
    child = (
        "import os, pathlib, sys; from everloop.supervisor import stop_on_signals\n"
        "stop = stop_on_signals()\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "(folder / 'part').write_text(str(os.getpid())); (folder / 'part').rename(folder / 'pid')\n"
        "stop.wait(120)\n"
    )
    code = (
        "import sys; from everloop.supervisor import supervise\n"
        "supervise({'child': [sys.executable, '-c', sys.argv[2], sys.argv[1]]}, 60)\n"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), child], cwd=ROOT)
    wait_for(tmp_path / "pid")
    orphan = psutil.Process(int((tmp_path / "pid").read_text()))
    supervisor.kill()
    supervisor.wait(60)
    with contextlib.suppress(psutil.NoSuchProcess):
        orphan.wait(60)
    assert not orphan.is_running()


def test_process_without_a_supervisor_is_not_stopped_by_its_parents_end(monkeypatch) -> None:
    monkeypatch.delenv(PARENT_VARIABLE, raising=False)
    before = threading.active_count()
    when_supervisor_ends(lambda: None)
    assert threading.active_count() == before


def test_back_off_doubles_to_its_limit_and_starts_over() -> None:
    back_off = BackOff(1, 6)
    assert [back_off.failed() for _ in range(4)] == [1, 2, 4, 6]
    back_off.succeeded()
    assert back_off.failed() == 1
    for _ in range(5000):
        assert back_off.failed() <= 6
