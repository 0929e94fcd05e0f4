import json
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from monitoring.families import ROUTES
from monitoring.metrics import Metrics

TAG = "everloop:v20260101000000-abcdef"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    metrics = Metrics(registry)
    announce(metrics, TAG)
    return metrics


def announce(metrics: Metrics, tag: str) -> None:
    metrics.model(tag, tag.partition(":")[2], "int8", "CPUExecutionProvider", True)


def busy(metrics: Metrics) -> Metrics:
    """Let every method be called once."""
    metrics.step(TAG, 0.004, 3)
    metrics.load(TAG, 3, 2, 0.25)
    metrics.scheduled(TAG, 0.002, 40, 32)
    metrics.first_token(TAG, 0.05, 0.048)
    metrics.inter_token(TAG, 0.004)
    metrics.drafted(TAG, 4, 3)
    metrics.finished(TAG, "stop", 40, 12, 0.044)
    metrics.request("chat", TAG, "ok", True, 0.1)
    metrics.feedback("positive")
    metrics.swap("ok")
    metrics.event_loop_lag(0.0002)
    metrics.store_dropped(1)
    return metrics


def names(registry: CollectorRegistry) -> set[str]:
    return {sample.name for family in registry.collect() for sample in family.samples}


def models(registry: CollectorRegistry) -> set[str]:
    samples = (sample for family in registry.collect() for sample in family.samples)
    return {sample.labels["model"] for sample in samples if "model" in sample.labels}


def series_count(registry: CollectorRegistry) -> int:
    return sum(len(family.samples) for family in registry.collect())


def test_step_observes_time_and_batch_size(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.step(TAG, 0.004, 3)
    metrics.step(TAG, 0.006, 5)
    labels = {"model": TAG}
    assert registry.get_sample_value("llm_engine_step_seconds_sum", labels) == pytest.approx(0.01)
    assert registry.get_sample_value("llm_batch_size_sum", labels) == 8
    assert registry.get_sample_value("llm_batch_size_bucket", {**labels, "le": "4.0"}) == 1


def test_load_shows_the_newest_state(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.load(TAG, 3, 2, 0.25)
    metrics.load(TAG, 1, 0, 0.125)
    labels = {"model": TAG}
    assert registry.get_sample_value("llm_requests_running", labels) == 1
    assert registry.get_sample_value("llm_requests_waiting", labels) == 0
    assert registry.get_sample_value("llm_kv_cache_usage_ratio", labels) == 0.125


def test_scheduled_counts_prompt_and_reused_tokens(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    metrics.scheduled(TAG, 0.002, 40, 32)
    metrics.scheduled(TAG, 0.004, 10, 0)
    labels = {"model": TAG}
    assert registry.get_sample_value("llm_prompt_tokens_total", labels) == 50
    assert registry.get_sample_value("llm_prefix_cache_queries_total", labels) == 50
    assert registry.get_sample_value("llm_prefix_cache_hits_total", labels) == 32
    assert registry.get_sample_value("llm_queue_time_seconds_sum", labels) == pytest.approx(0.006)


def test_drafted_counts_drafts_and_those_that_stood(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    metrics.drafted(TAG, 4, 3)
    metrics.drafted(TAG, 2, 0)
    labels = {"model": TAG}
    assert registry.get_sample_value("llm_spec_decode_num_draft_tokens_total", labels) == 6
    assert registry.get_sample_value("llm_spec_decode_num_accepted_tokens_total", labels) == 3


@pytest.mark.parametrize(
    ("name", "seconds", "inside", "below"),
    [
        ("llm_time_to_first_token_seconds", 0.002, "0.0025", "0.001"),
        ("llm_inter_token_latency_seconds", 0.0015, "0.002", "0.001"),
    ],
)
def test_buckets_resolve_the_latencies_of_small_models(
    metrics: Metrics,
    registry: CollectorRegistry,
    name: str,
    seconds: float,
    inside: str,
    below: str,
) -> None:
    metrics.first_token(TAG, seconds, seconds)
    metrics.inter_token(TAG, seconds)
    labels = {"model": TAG}
    assert registry.get_sample_value(f"{name}_bucket", {**labels, "le": inside}) == 1
    assert registry.get_sample_value(f"{name}_bucket", {**labels, "le": below}) == 0


def test_finished_counts_reason_lengths_and_tokens(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    metrics.finished(TAG, "length", 40, 12, 0.044)
    labels = {"model": TAG}
    reason = {**labels, "finish_reason": "length"}
    assert registry.get_sample_value("llm_request_success_total", reason) == 1
    assert registry.get_sample_value("llm_generation_tokens_total", labels) == 12
    assert registry.get_sample_value("llm_request_prompt_tokens_sum", labels) == 40
    assert registry.get_sample_value("llm_aborted_requests_total", labels) == 0


def test_finished_by_abort_counts_as_aborted(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.finished(TAG, "abort", 40, 3, 0.01)
    assert registry.get_sample_value("llm_aborted_requests_total", {"model": TAG}) == 1


def test_request_counts_by_route_status_and_stream(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    metrics.request("chat", TAG, "client_abort", True, 0.3)
    labels = {"route": "chat", "model": TAG, "status": "client_abort", "stream": "true"}
    assert registry.get_sample_value("llm_requests_total", labels) == 1
    assert registry.get_sample_value("llm_e2e_request_latency_seconds_sum", {"model": TAG}) == 0.3


@pytest.mark.parametrize(
    ("route", "status"), [("chat", "rejected"), ("chat", "error"), ("models", "ok")]
)
def test_request_that_did_not_generate_is_no_latency(
    metrics: Metrics, registry: CollectorRegistry, route: str, status: str
) -> None:
    metrics.request(route, TAG, status, False, 0.3)
    assert registry.get_sample_value("llm_e2e_request_latency_seconds_count", {"model": TAG}) == 0


def test_route_that_no_model_answers_counts_without_one(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    metrics.request("models", "", "ok", False, 0.001)
    metrics.request("feedback", TAG, "rejected", False, 0.001)
    for route, status in (("models", "ok"), ("feedback", "rejected")):
        labels = {"route": route, "model": "other", "status": status, "stream": "false"}
        assert registry.get_sample_value("llm_requests_total", labels) == 1


def test_routes_of_the_api_have_their_own_series() -> None:
    app = (Path(__file__).parents[2] / "serving/openai_api/app.py").read_text(encoding="utf-8")
    routes = set(re.findall(r'"/v1/.*name="(\w+)"', app))
    assert {"chat", "completions"} <= routes <= set(ROUTES)


def test_unknown_values_count_as_other_and_add_no_series(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    before = series_count(registry)
    for number in range(200):
        metrics.request(f"/{number}", f"gpt-{number}", "odd", False, 0.1)
        metrics.feedback(f"rating-{number}")
        metrics.scheduled(f"gpt-{number}", 0.1, 1, 0)
    assert series_count(registry) == before
    labels = {"route": "other", "model": "other", "status": "error", "stream": "false"}
    assert registry.get_sample_value("llm_requests_total", labels) == 200
    assert registry.get_sample_value("llm_feedback_total", {"rating": "other"}) == 200


def test_model_creates_all_label_sets_at_zero(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    before = series_count(registry)
    busy(metrics)
    assert series_count(registry) == before


def test_model_marks_only_the_newest_version(metrics: Metrics, registry: CollectorRegistry) -> None:
    announce(metrics, "everloop:v2")
    labels = {
        "version": "v2", "precision": "int8", "provider": "CPUExecutionProvider",
        "batch_invariant": "true",
    }  # fmt: skip
    assert registry.get_sample_value("llm_model_info", {**labels, "model": "everloop:v2"}) == 1
    old = {**labels, "model": TAG, "version": TAG.partition(":")[2]}
    assert registry.get_sample_value("llm_model_info", old) == 0


def test_model_announced_again_keeps_its_counts(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    metrics.finished(TAG, "stop", 40, 12, 0.044)
    announce(metrics, "everloop:v2")
    announce(metrics, TAG)
    assert registry.get_sample_value("llm_generation_tokens_total", {"model": TAG}) == 12


def test_only_the_last_versions_keep_their_series() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, keep_versions=3)
    for number in range(10):
        announce(metrics, f"everloop:v{number}")
    assert models(registry) == {"other", "everloop:v7", "everloop:v8", "everloop:v9"}


def test_a_version_in_use_outlives_newer_unused_ones() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, keep_versions=2)
    announce(metrics, "everloop:v1")
    announce(metrics, "everloop:v2")
    metrics.scheduled("everloop:v1", 0.001, 5, 0)
    announce(metrics, "everloop:v3")
    assert models(registry) == {"other", "everloop:v1", "everloop:v3"}


def test_late_events_of_a_forgotten_version_count_as_other() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, keep_versions=1)
    announce(metrics, "everloop:v1")
    announce(metrics, "everloop:v2")
    metrics.finished("everloop:v1", "stop", 5, 7, 0.1)
    assert registry.get_sample_value("llm_generation_tokens_total", {"model": "other"}) == 7
    assert models(registry) == {"other", "everloop:v2"}


def test_counts_from_many_threads_are_exact(metrics: Metrics, registry: CollectorRegistry) -> None:
    start = threading.Barrier(4)

    def work(number: int) -> None:
        start.wait()
        for index in range(500):
            metrics.inter_token(TAG, 0.001)
            if index % 100 == 0:
                announce(metrics, f"everloop:t{number}-{index}")
                metrics.scheduled(TAG, 0.001, 1, 0)
                metrics.render("")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    count = registry.get_sample_value("llm_inter_token_latency_seconds_count", {"model": TAG})
    assert count == 2_000


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [("", "text/plain"), ("application/openmetrics-text", "application/openmetrics-text")],
)
def test_render_answers_in_the_format_asked_for(
    metrics: Metrics, accept: str, content_type: str
) -> None:
    body, found = busy(metrics).render(accept)
    assert found.startswith(content_type)
    assert body.decode().endswith("# EOF\n") == (accept != "")
    assert f'llm_generation_tokens_total{{model="{TAG}"}} 12.0' in body.decode()


def test_registry_carries_the_process_and_its_python(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    assert {"process_resident_memory_bytes", "python_info"} <= names(registry)


def test_two_servers_in_one_process_do_not_share_counts(metrics: Metrics) -> None:
    other = CollectorRegistry()
    Metrics(other)
    metrics.feedback("negative")
    assert other.get_sample_value("llm_feedback_total", {"rating": "negative"}) == 0


def test_metrics_implements_the_observers_of_serving() -> None:
    from serving.engine.observer import EngineObserver
    from serving.openai_api.observer import ServerObserver

    for protocol in (EngineObserver, ServerObserver):
        for name, method in vars(protocol).items():
            if not name.startswith("_"):
                own = getattr(Metrics, name)
                assert own.__annotations__ == method.__annotations__, name


def test_import_stays_light() -> None:
    code = (
        "import json, sys, monitoring.metrics; "
        "print(json.dumps([m for m in ('pandas', 'evidently', 'sklearn', 'numpy', 'serving') "
        "if m in sys.modules]))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert json.loads(output.stdout) == []
