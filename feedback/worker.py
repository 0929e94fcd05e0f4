"""The worker: look at the feedback again and again, run a round when it is due. Wiring only."""

import logging
import threading
import time
from typing import Any

from everloop.back_off import BackOff
from everloop.errors import EverloopError, NoChampionError
from everloop.process_status import ROUNDS, read_status, write_status
from everloop.settings import Home, RunFile
from feedback.loop import run_round
from feedback.loop_config import LoopConfig, check_loop

logger = logging.getLogger(__name__)


def run_worker(home: Home, run: RunFile, stop: threading.Event) -> None:
    """Run rounds until stopped.

    A round that fails, whatever it raises, is logged with its reason, and the pause until the next
    look doubles with each failure in a row. A round that killed its process has failed too: the
    worker that comes after goes on with the pauses.

    Args:
        stop: ends the wait at once; a round that has begun is finished first.

    Raises:
        ConfigError: the run's tables about the loop are wrong, or contradict one another.
    """
    check_loop(run)
    config = run.table("loop", LoopConfig)
    pauses = _Pauses(home, config)
    logger.info("worker ready home=%s interval_seconds=%g", home.root, config.interval_seconds)
    stop.wait(pauses.left)
    while not stop.is_set():
        pauses.begin()
        stop.wait(pauses.end(_round(home, run)))
    logger.info("worker stopped")


class _Pauses:
    """How long to wait after a round, remembered in the home folder.

    Attributes:
        left: seconds that a worker before this one had still to wait.
    """

    def __init__(self, home: Home, config: LoopConfig) -> None:
        self._path = home.status / ROUNDS
        self._interval = config.interval_seconds
        self._back_off = BackOff(config.interval_seconds, config.max_retry_seconds)
        self._status: dict[str, Any] = {"failed": 0, "failed_in_a_row": 0, "next_at": 0.0}
        self._status |= read_status(self._path)
        pause = 0.0
        for _ in range(min(self._status["failed_in_a_row"], 100)):
            pause = self._back_off.failed()
        if self._status.get("is_running"):
            pause = self.end("its process ended in the middle.")
        self.left = max(0.0, min(pause, self._status["next_at"] - time.time()))

    def begin(self) -> None:
        """A round begins."""
        self._write(is_running=True)

    def end(self, reason: str | None) -> float:
        """A round ended; gives the seconds to wait.

        Args:
            reason: why it failed; None if it did not.
        """
        pause = self._interval
        if reason is None:
            self._back_off.succeeded()
        else:
            pause = self._back_off.failed()
            self._status["failed"] += 1
            logger.error(
                "round failed: %s The next one is in %g seconds (failures in a row: %d).",
                *(reason, pause, self._back_off.failures),
            )
        self._write(
            is_running=False,
            failed_in_a_row=self._back_off.failures,
            reason=reason,
            next_at=time.time() + pause,
        )
        return pause

    def _write(self, **changes: Any) -> None:
        self._status |= changes
        write_status(self._path, self._status)


def _round(home: Home, run: RunFile) -> str | None:
    """Run one round; gives why it failed, or None."""
    try:
        result = run_round(home, run)
    except NoChampionError as error:
        logger.info("round outcome=waiting: %s", error)
        return None
    except EverloopError as error:
        return str(error)
    except Exception as error:
        logger.exception("round failed")
        return f"{type(error).__name__}: {error}."
    level = logging.DEBUG if result.outcome == "waiting" else logging.INFO
    logger.log(level, "round outcome=%s: %s", result.outcome, "; ".join(result.reasons))
    return None
