import json
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from everloop.errors import ConfigError, RefusedError
from everloop.records import Interaction
from everloop.settings import Home
from feedback.store import open_store
from feedback.store.database import insert_new, writing
from feedback.store.interactions import to_row
from feedback.store.tables import interactions as interactions_table
from monitoring.drift_metrics import DriftMetrics
from monitoring.drift_report import DriftConfig, newest_summary
from monitoring.worker import compare_once, run_monitor, run_once
from tests.serving.fakes import wait_until

Make = Callable[..., list[Interaction]]

PROCESS = """
import logging, sys
from pathlib import Path
from everloop.settings import Home
from monitoring.drift_report import DriftConfig
from everloop.supervisor import stop_on_signals
from monitoring.worker import run_monitor
logging.basicConfig(level="INFO", stream=sys.stderr, format="%(message)s")
home = Home(Path(sys.argv[1]))
run_monitor(home, home.database_url, DriftConfig(), 0, stop_on_signals())
"""


def fill(home: Home, rows: list[Interaction]) -> None:
    store = open_store(home.database_url)
    with writing(store.engine) as connection:
        insert_new(connection, interactions_table, [to_row(row) for row in rows])
    store.close()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> DriftMetrics:
    return DriftMetrics(registry)


@pytest.fixture
def process(home: Home) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(home.root)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        yield process
        process.kill()


def test_too_few_rows_are_a_run_without_a_comparison(
    home: Home, registry: CollectorRegistry, metrics: DriftMetrics, interactions: Make
) -> None:
    fill(home, interactions(40, seed=0))
    run_once(home, home.database_url, DriftConfig(), metrics)
    assert registry.get_sample_value("llm_monitor_rows") == 40
    assert registry.get_sample_value("llm_monitor_failures_total") == 0
    last_run = registry.get_sample_value("llm_monitor_last_run_timestamp_seconds")
    assert last_run is not None
    assert last_run > 1_700_000_000
    assert registry.get_sample_value("llm_drift_detected", {"column": "e2e_seconds"}) is None


def test_a_store_that_cannot_be_read_is_counted_and_leaves_the_last_run(
    home: Home, registry: CollectorRegistry, metrics: DriftMetrics
) -> None:
    metrics.ran(500, 1_700_000_000.0)
    run_once(home, f"sqlite:///{home.root}/absent/store.sqlite", DriftConfig(), metrics)
    assert registry.get_sample_value("llm_monitor_failures_total") == 1
    last_run = registry.get_sample_value("llm_monitor_last_run_timestamp_seconds")
    assert last_run == 1_700_000_000.0


def test_a_failure_is_logged(
    home: Home, metrics: DriftMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    run_once(home, "no url at all", DriftConfig(), metrics)
    assert "drift run failed" in caplog.text


def test_a_port_in_use_is_named(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"monitor: port {port} of 127.0.0.1 cannot be used"):
            run_monitor(home, home.database_url, DriftConfig(), port, threading.Event())


def test_a_stopped_monitor_ends_without_a_run(home: Home) -> None:
    stop = threading.Event()
    stop.set()
    run_monitor(home, home.database_url, DriftConfig(), 0, stop)
    assert not home.reports.exists()


def test_compare_once_refuses_a_short_history(home: Home, interactions: Make) -> None:
    fill(home, interactions(700, seed=0))
    with pytest.raises(RefusedError, match="found 200 reference and 500 current"):
        compare_once(home, home.database_url, DriftConfig())


@pytest.mark.slow
def test_compare_once_gives_the_report_that_the_loop_finds(home: Home, interactions: Make) -> None:
    fill(home, interactions(900, seed=0))
    report = compare_once(home, home.database_url, DriftConfig())
    assert (report.reference_rows, report.current_rows) == (400, 500)
    assert newest_summary(home.reports / "drift") == report


@pytest.mark.slow
def test_changed_traffic_reaches_the_gauges(
    home: Home, registry: CollectorRegistry, metrics: DriftMetrics, interactions: Make
) -> None:
    fill(home, interactions(1_000, seed=1) + interactions(500, seed=2, shifted=True, start=1_000))
    run_once(home, home.database_url, DriftConfig(), metrics)
    assert registry.get_sample_value("llm_monitor_failures_total") == 0
    assert registry.get_sample_value("llm_monitor_rows") == 500
    share = registry.get_sample_value("llm_drift_share")
    assert share is not None
    assert share > 0.5
    assert registry.get_sample_value("llm_drift_detected", {"column": "question_text"}) == 1
    [folder] = (home.reports / "drift").iterdir()
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["share"] == share


@pytest.mark.slow
def test_only_the_newest_reports_are_kept(
    home: Home, metrics: DriftMetrics, interactions: Make
) -> None:
    fill(home, interactions(800, seed=1))
    config = DriftConfig(keep_reports=2)
    for _ in range(3):
        run_once(home, home.database_url, config, metrics)
    assert len(list((home.reports / "drift").iterdir())) == 2


@pytest.mark.slow
def test_process_serves_its_gauges_and_stops_on_sigterm(
    home: Home, process: subprocess.Popen[str], interactions: Make
) -> None:
    fill(home, interactions(800, seed=1))
    assert process.stderr
    ready = next(line for line in process.stderr if "monitor ready" in line)
    url = ready.strip().partition("url=")[2]
    assert url.startswith("http://127.0.0.1:")
    next(line for line in process.stderr if "drift run share=" in line)
    # The line is written as soon as the report is there, the gauges are set after it.
    sample = b'llm_drift_detected{column="e2e_seconds"} 0.0'
    assert wait_until(lambda: sample in urllib.request.urlopen(url, timeout=60).read(), 60.0)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
