"""Programs from outside Python, a live exposition, and what both processes really expose."""

import json
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from everloop.process_status import RESTARTS, ROUNDS, write_status
from monitoring.drift_metrics import DriftMetrics
from monitoring.drift_report import ColumnDrift, DriftReport
from monitoring.metrics import Metrics
from monitoring.status_metrics import StatusCollector
from monitoring.training_metrics import GAUGES, TrainingCollector
from tests.programs import program

TAG = "everloop:v20260101000000-abcdef"


@pytest.fixture
def promtool() -> str:
    return program("promtool")


@pytest.fixture
def prometheus() -> str:
    return program("prometheus")


@pytest.fixture
def status(tmp_path: Path) -> Path:
    """What a supervisor and a loop worker wrote into the home folder."""
    folder = tmp_path / "status"
    write_status(folder / RESTARTS, {"server": {"restarts": 1, "last_end": "signal SIGKILL"}})
    write_status(folder / ROUNDS, {"failed": 2})
    return folder


@pytest.fixture
def server_registry(status: Path) -> CollectorRegistry:
    """A server after one request."""
    registry = CollectorRegistry()
    registry.register(StatusCollector(status))
    metrics = Metrics(registry)
    metrics.model(TAG, TAG.partition(":")[2], "int8", "CPUExecutionProvider", True)
    metrics.scheduled(TAG, 0.002, 40, 32)
    metrics.step(TAG, 0.004, 3)
    metrics.first_token(TAG, 0.05, 0.048)
    metrics.inter_token(TAG, 0.004)
    metrics.drafted(TAG, 4, 3)
    metrics.finished(TAG, "stop", 40, 12, 0.044)
    metrics.load(TAG, 3, 2, 0.25)
    metrics.request("chat", TAG, "ok", True, 0.1)
    metrics.feedback("positive")
    metrics.swap("ok")
    metrics.event_loop_lag(0.0002)
    return registry


@pytest.fixture
def monitor_registry(tmp_path: Path, status: Path) -> CollectorRegistry:
    """A monitor after one drift run, while a training goes on."""
    registry = CollectorRegistry()
    registry.register(StatusCollector(status))
    run = tmp_path / "runs" / "base-pretrain"
    run.mkdir(parents=True)
    status = {
        "run": run.name,
        "status": "running",
        "updated_at": 1000.0,
        **dict.fromkeys(GAUGES, 1),
    }
    (run / "status.json").write_text(json.dumps(status), encoding="utf-8")
    registry.register(TrainingCollector(run.parent, clock=lambda: 1001.0))
    metrics = DriftMetrics(registry)
    column = ColumnDrift(
        column="question_text",
        method="domain_classifier_auc",
        score=0.7,
        threshold=0.6,
        detected=True,
    )
    report = DriftReport(
        created_at=1_700_000_000.0,
        share=0.5,
        detected=True,
        columns=(column,),
        question_text=None,
        left_out={},
        reference_rows=1_000,
        current_rows=500,
        reference_model_versions=(TAG,),
        current_model_versions=(TAG,),
        html=Path("drift.html"),
        json_report=Path("drift.json"),
    )
    metrics.compared(report)
    metrics.ran(500, 1_700_000_000.0)
    return registry


@pytest.fixture
def exposed(server_registry: CollectorRegistry, monitor_registry: CollectorRegistry) -> set[str]:
    """The names of all samples that the two processes expose, and Prometheus' own `up`."""
    registries = (server_registry, monitor_registry)
    families = (family for registry in registries for family in registry.collect())
    return {"up"} | {sample.name for family in families for sample in family.samples}
