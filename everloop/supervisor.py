"""Processes that start and stop together: one that fails is started again, with growing pauses.

The only supervisor of this program. It opens no socket: what it knows stands in the log and in
`restarts.json` of the home folder, from which the metrics are read.
"""

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from everloop.back_off import BackOff
from everloop.process_status import write_status

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
_OWN_ERRORS = (1, 2, 3)  # exit codes by which a command says in words what is wrong (errors.py)
PARENT_VARIABLE = "EVERLOOP_SUPERVISOR"  # in a child's environment: the id of this process


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarts:
    """When a command that ended is started again.

    Attributes:
        first_seconds: the pause after a first failure; each later one doubles it.
        most_seconds: the longest pause.
        settled_seconds: a command that has run for so long starts over with the first pause.
        record: where the restarts of each command are counted, as JSON.
    """

    first_seconds: float = 1.0
    most_seconds: float = 60.0
    settled_seconds: float = 60.0
    record: Path | None = None


class _Child:
    """One command, its process, and when it may start again."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], restarts: Restarts
    ) -> None:
        self.name, self.restarts = name, 0
        self.last_end: str | None = None
        self._command, self._environment = list(command), dict(environment)
        self._settled_seconds = restarts.settled_seconds
        self._back_off = BackOff(restarts.first_seconds, restarts.most_seconds)
        self._start_at: float | None = None  # set while the process waits for its next start
        self.start()

    def start(self) -> None:
        """Start the process in a session of its own: a Ctrl-C reaches only the supervisor."""
        self._started, self._start_at = time.monotonic(), None
        self.process = subprocess.Popen(
            self._command,
            env=self._environment | {PARENT_VARIABLE: str(os.getpid())},
            start_new_session=True,
        )

    def look(self) -> int | None:
        """Start the process again when it is time to.

        Returns:
            An exit code if there is nothing to come back for: it ended by itself soon after its
            very first start, so what it was told is wrong.
        """
        if self._start_at is not None:
            if time.monotonic() >= self._start_at:
                self._start_again()
            return None
        code = self.process.poll()
        if code is None:
            return None
        is_settled = time.monotonic() - self._started >= self._settled_seconds
        if code in _OWN_ERRORS and not self.restarts and not is_settled:
            return code
        if is_settled:
            self._back_off.succeeded()
        self._wait(_reason(code))
        return None

    def _start_again(self) -> None:
        try:
            self.start()
        except OSError as error:  # no memory or no process left: the machine may recover
            self._wait(f"it could not be started ({error.strerror})")

    def _wait(self, reason: str) -> None:
        pause = self._back_off.failed()
        self.restarts += 1
        self.last_end = reason
        self._start_at = time.monotonic() + pause
        logger.error(
            "process %s ended: %s; starting it again in %g seconds (restart %d)",
            *(self.name, reason, pause, self.restarts),
        )


def supervise(
    commands: Mapping[str, Sequence[str]],
    grace_seconds: float,
    restarts: Restarts | None = None,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run commands until this process is told to stop, each again when it ends.

    A command that ends by itself with an error soon after its first start was given something
    wrong: it stops all others, and its code is returned. On SIGTERM or SIGINT every command gets
    SIGTERM and the grace time to finish its work; what is still there after it is killed.

    Args:
        commands: name -> argument list; the order is the order of starting.
        grace_seconds: how long a stop may take.
        restarts: when to start a command again; None for the usual.
        environment: of the commands; None for this process's.

    Returns:
        0 after a stop by signal, else the exit code of the command that could not start.
    """
    policy = restarts or Restarts()
    stop = threading.Event()

    def ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    previous = {name: signal.signal(name, ask_to_stop) for name in (signal.SIGTERM, signal.SIGINT)}
    children: list[_Child] = []
    try:
        for name, command in commands.items():
            children.append(_Child(name, command, environment or os.environ, policy))
        _write(policy.record, children)
        while not stop.wait(POLL_SECONDS):
            counts = [child.restarts for child in children]
            for child in children:
                code = child.look()
                if code is not None:
                    logger.error("process %s could not start: exit code %d", child.name, code)
                    return code
            if counts != [child.restarts for child in children]:
                _write(policy.record, children)
        return 0
    finally:
        terminate([child.process for child in children], grace_seconds)
        for number, handler in previous.items():
            signal.signal(number, handler)


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
    """Give an event that SIGTERM and SIGINT set, and the end of the supervisor that started us.

    For the main thread of a process.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    when_supervisor_ends(stop.set)
    return stop


def when_supervisor_ends(act: Callable[[], None], poll_seconds: float = 1.0) -> None:
    """Call a function, in a thread, once the supervisor that started this process is gone.

    Nobody else would end the process. Without a supervisor nothing happens.
    """
    parent = os.environ.get(PARENT_VARIABLE, "")

    def watch() -> None:
        pause = threading.Event()
        while str(os.getppid()) == parent:
            pause.wait(poll_seconds)
        logger.warning("the supervisor is gone; stopping")
        act()

    if parent:
        threading.Thread(target=watch, name="supervisor watch", daemon=True).start()


def _reason(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def _write(record: Path | None, children: Sequence[_Child]) -> None:
    if record is not None:
        write_status(
            record,
            {
                child.name: {"restarts": child.restarts, "last_end": child.last_end}
                for child in children
            },
        )
