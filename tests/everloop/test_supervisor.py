"""Processes that start together stop together."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from everloop.supervisor import supervise, terminate

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
sys.exit(7)
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


def test_one_end_stops_the_others_and_gives_its_code(tmp_path: Path) -> None:
    leaver = [sys.executable, "-c", LEAVER, str(tmp_path / "pid")]
    assert supervise({"a": waiter(tmp_path), "b": leaver}, grace_seconds=60) == 7
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
