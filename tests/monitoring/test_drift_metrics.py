from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from monitoring.drift_metrics import DriftMetrics
from monitoring.drift_report import ColumnDrift, DriftReport


def column(name: str, score: float, method: str = "wasserstein") -> ColumnDrift:
    return ColumnDrift(
        column=name, method=method, score=score, threshold=0.5, detected=score >= 0.5
    )


def report(*columns: ColumnDrift, text: ColumnDrift | None = None) -> DriftReport:
    return DriftReport(
        created_at=1_700_000_000.0,
        share=0.25,
        detected=False,
        columns=columns,
        question_text=text,
        left_out={},
        reference_rows=1_000,
        current_rows=500,
        reference_model_versions=(),
        current_model_versions=(),
        html=Path("drift.html"),
        json_report=Path("drift.json"),
    )


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> DriftMetrics:
    return DriftMetrics(registry)


def test_compared_shows_share_scores_and_alarms(
    metrics: DriftMetrics, registry: CollectorRegistry
) -> None:
    metrics.compared(
        report(
            column("e2e_seconds", 0.1),
            column("ttft_seconds", 0.9),
            text=column("question_text", 0.7, "domain_classifier_auc"),
        )
    )
    value = registry.get_sample_value
    assert value("llm_drift_share") == 0.25
    assert value("llm_drift_score", {"column": "ttft_seconds", "method": "wasserstein"}) == 0.9
    assert value("llm_drift_detected", {"column": "ttft_seconds"}) == 1
    assert value("llm_drift_detected", {"column": "e2e_seconds"}) == 0
    assert value("llm_drift_detected", {"column": "question_text"}) == 1


def test_a_column_no_longer_compared_loses_its_alarm(
    metrics: DriftMetrics, registry: CollectorRegistry
) -> None:
    metrics.compared(report(column("ttft_seconds", 0.9)))
    metrics.compared(report(column("e2e_seconds", 0.1)))
    assert registry.get_sample_value("llm_drift_detected", {"column": "ttft_seconds"}) is None


def test_ran_shows_rows_and_time(metrics: DriftMetrics, registry: CollectorRegistry) -> None:
    metrics.ran(120, 1_700_000_000.0)
    assert registry.get_sample_value("llm_monitor_rows") == 120
    value = registry.get_sample_value("llm_monitor_last_run_timestamp_seconds")
    assert value == 1_700_000_000.0


def test_failed_leaves_the_last_run_alone(
    metrics: DriftMetrics, registry: CollectorRegistry
) -> None:
    metrics.ran(120, 1_700_000_000.0)
    metrics.failed()
    assert registry.get_sample_value("llm_monitor_failures_total") == 1
    value = registry.get_sample_value("llm_monitor_last_run_timestamp_seconds")
    assert value == 1_700_000_000.0


def test_failures_start_at_zero(metrics: DriftMetrics, registry: CollectorRegistry) -> None:
    assert registry.get_sample_value("llm_monitor_failures_total") == 0
