"""The worker: look at the feedback again and again, run a round when it is due. Wiring only."""

import logging
import threading

from everloop.errors import EverloopError
from everloop.settings import Home, RunFile
from feedback.loop import run_round
from feedback.loop_config import LoopConfig, check_loop

logger = logging.getLogger(__name__)


def run_worker(home: Home, run: RunFile, stop: threading.Event) -> None:
    """Run rounds until stopped; a round that fails is logged, and the next look comes in time.

    Args:
        stop: ends the wait at once; a round that has begun is finished first.

    Raises:
        ConfigError: the run's tables about the loop are wrong, or contradict one another.
    """
    check_loop(run)
    interval = run.table("loop", LoopConfig).interval_seconds
    logger.info("worker ready home=%s interval_seconds=%g", home.root, interval)
    while not stop.is_set():
        try:
            result = run_round(home, run)
        except EverloopError as error:
            logger.error("round failed: %s", error)
        else:
            level = logging.DEBUG if result.outcome == "waiting" else logging.INFO
            logger.log(level, "round outcome=%s: %s", result.outcome, "; ".join(result.reasons))
        stop.wait(interval)
    logger.info("worker stopped")
