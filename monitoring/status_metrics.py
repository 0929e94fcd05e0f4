"""Counters of what the processes beside this one went through, read from their files when asked.

A supervisor and a worker serve no metrics; they rewrite small files (`everloop/process_status.py`),
and whoever scrapes the server or the monitor sees what the files say.
"""

from collections.abc import Iterable
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from everloop.process_status import RESTARTS, ROUNDS, read_status


class StatusCollector(Collector):
    """Reads the status files of a home folder.

    Args:
        folder: where the processes write them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Give the restarts of each supervised process, and the failed rounds of the loop."""
        restarts = CounterMetricFamily(
            "llm_process_restarts", "Times that a process ended and was started again.",
            labels=["process"],
        )  # fmt: skip
        for name, status in read_status(self._folder / RESTARTS).items():
            if isinstance(status, dict) and isinstance(status.get("restarts"), int):
                restarts.add_metric([name], float(status["restarts"]))
        failed = CounterMetricFamily(
            "llm_loop_failed_rounds", "Rounds of the loop that ended with an error."
        )
        count = read_status(self._folder / ROUNDS).get("failed", 0)
        failed.add_metric([], float(count) if isinstance(count, int) else 0.0)
        return [restarts, failed]
