"""The drift worker: every few minutes, read the store, compare, show the result. Wiring only.

A process of its own (`everloop monitor`), because Evidently costs seconds of import and 300 MB that
the server must not pay. Its metrics stand on its own loopback port.
"""

import logging
import shutil
import threading
import time
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, start_http_server

from everloop.errors import ConfigError, RefusedError
from everloop.records import Interaction
from everloop.settings import Home
from feedback.store import open_store
from monitoring.drift import drift_report, split_windows
from monitoring.drift_metrics import DriftMetrics
from monitoring.drift_report import DriftConfig, DriftReport
from monitoring.status_metrics import StatusCollector
from monitoring.training_metrics import TrainingCollector

logger = logging.getLogger(__name__)

Windows = tuple[list[Interaction], list[Interaction]]  # reference, current


def run_monitor(
    home: Home, database_url: str, config: DriftConfig, port: int, stop: threading.Event
) -> None:
    """Compare, wait, compare again, until stopped.

    Args:
        port: of the worker's `/metrics`, on 127.0.0.1.
        stop: ends the wait at once; a comparison that has begun is finished first.

    Raises:
        ConfigError: the port is in use.
    """
    registry = CollectorRegistry()
    metrics = DriftMetrics(registry)
    registry.register(TrainingCollector(home.runs))
    registry.register(StatusCollector(home.status))
    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        raise ConfigError(
            f"monitor: port {port} of 127.0.0.1 cannot be used ({error.strerror}). Choose another."
        ) from error
    logger.info("monitor ready url=http://127.0.0.1:%d/metrics", server.server_port)
    try:
        while not stop.is_set():
            run_once(home, database_url, config, metrics)
            stop.wait(config.interval_minutes * 60)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    logger.info("monitor stopped")


def run_once(home: Home, database_url: str, config: DriftConfig, metrics: DriftMetrics) -> None:
    """Compare once and show the result; a failure is logged and counted, and ends nothing."""
    try:
        windows = _read_windows(database_url, config)
        try:
            metrics.compared(_compare(home, windows, config))
        except RefusedError as error:
            logger.info("drift run skipped: %s", error)
    except Exception:
        logger.exception("drift run failed")
        metrics.failed()
    else:
        metrics.ran(len(windows[1]), time.time())


def compare_once(home: Home, database_url: str, config: DriftConfig) -> DriftReport:
    """Compare once for a person: `everloop drift report`.

    Raises:
        RefusedError: there are too few interactions.
        StoreError: the store cannot be read.
    """
    return _compare(home, _read_windows(database_url, config), config)


def _read_windows(database_url: str, config: DriftConfig) -> Windows:
    store = open_store(database_url)
    try:
        newest = store.interactions(
            limit=config.reference_rows + config.current_rows, newest_first=True
        )
    finally:
        store.close()
    return split_windows(newest, config)


def _compare(home: Home, windows: Windows, config: DriftConfig) -> DriftReport:
    name = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")  # sorts by time
    folder = home.reports / "drift" / name
    report = drift_report(*windows, config, folder)
    logger.info("drift run share=%.2f report=%s %s", report.share, folder, report.verdict)
    reports = sorted(path for path in folder.parent.iterdir() if path.is_dir())
    for old in reports[: -config.keep_reports]:
        shutil.rmtree(old)
    return report
