"""Gauges of the training runs that are going on, read from their status.json when asked.

A run is a process of its own, often a short one, so it serves no metrics: it rewrites a small file,
and whoever scrapes the monitor sees what the file says.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

# A run that has not written for so long was killed.
STALE_SECONDS = 900.0

# Field of status.json -> name and help of its gauge.
GAUGES = {
    "step": ("llm_training_step", "Optimizer steps of a running training run."),
    "fraction": ("llm_training_progress_ratio", "Spent share of the run's budget."),
    "train_loss": ("llm_training_loss", "Training loss, nats per token or the method's own."),
    "val_loss": ("llm_training_validation_loss", "Newest validation loss."),
    "learning_rate": ("llm_training_learning_rate", "Learning rate of the layers."),
    "tokens_per_second": ("llm_training_tokens_per_second", "Tokens learnt per second."),
    "seconds_left": ("llm_training_remaining_seconds", "Estimated time to the end of the run."),
}


class TrainingCollector(Collector):
    """Reads the status files under a folder of runs.

    Args:
        runs: folder whose folders are runs.
        clock: Unix time.
    """

    def __init__(self, runs: Path, clock: Callable[[], float] = time.time) -> None:
        self._runs = runs
        self._clock = clock

    def collect(self) -> Iterable[Metric]:
        """Give one family per gauge, with a sample for each running run."""
        families = {
            field: GaugeMetricFamily(name, text, labels=["run"])
            for field, (name, text) in GAUGES.items()
        }
        for status in self._running():
            for field, family in families.items():
                if field in status:
                    family.add_metric([str(status["run"])], float(status[field]))
        return families.values()

    def _running(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self._runs.glob("*/status.json")):
            try:
                status = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue  # being replaced, or deleted with its run
            is_fresh = self._clock() - status["updated_at"] < STALE_SECONDS
            if status["status"] == "running" and is_fresh:
                yield status
