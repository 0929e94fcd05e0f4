"""Processes that start and stop together, and the stop signal of one."""

import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType

POLL_SECONDS = 0.2


def supervise(commands: Mapping[str, Sequence[str]], grace_seconds: float) -> int:
    """Run commands until one of them ends or this process is told to stop.

    On SIGTERM or SIGINT, or when a command ends, every other command gets SIGTERM and the grace
    time to finish its work; what is still there after it is killed.

    Args:
        commands: name -> argument list; the order is the order of starting.
        grace_seconds: how long a stop may take.

    Returns:
        0 after a stop by signal, else the exit code of the command that ended first (1 for 0: a
        process that should run for ever has no good reason to end).
    """
    stop = threading.Event()

    def ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    previous = {name: signal.signal(name, ask_to_stop) for name in (signal.SIGTERM, signal.SIGINT)}
    # Own sessions: a Ctrl-C reaches only this process, which then stops the others in order.
    children = [
        subprocess.Popen(list(command), start_new_session=True) for command in commands.values()
    ]
    try:
        ended = None
        while ended is None and not stop.wait(POLL_SECONDS):
            ended = next((child for child in children if child.poll() is not None), None)
        return 0 if ended is None else ended.returncode or 1
    finally:
        terminate(children, grace_seconds)
        for name, handler in previous.items():
            signal.signal(name, handler)


def terminate(children: Sequence[subprocess.Popen[bytes]], grace_seconds: float) -> None:
    """Ask processes to stop, wait, and kill what is left after the grace time."""
    for child in children:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def stop_on_signals() -> threading.Event:
    """Give an event that SIGTERM and SIGINT set; for the main thread of a process."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
