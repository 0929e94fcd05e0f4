"""Write everloop.json, the Grafana dashboard: `python deploy/grafana/build.py`.

Import the file in Grafana (Dashboards, New, Import) and choose the Prometheus data source.
"""

import json
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).with_name("everloop.json")
_MODEL = 'model=~"$model"'
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 3

Panel = tuple[str, str, dict[str, str]]  # title, unit, legend -> expression


def _quantiles(metric: str) -> dict[str, str]:
    buckets = f"sum by (le) (rate({metric}_bucket{{{_MODEL}}}[$__rate_interval]))"
    return {
        f"p{int(quantile * 100)}": f"histogram_quantile({quantile}, {buckets})"
        for quantile in (0.5, 0.95, 0.99)
    }


def _rate(metric: str, by: str, labels: str = _MODEL) -> str:
    return f"sum by ({by}) (rate({metric}{{{labels}}}[$__rate_interval]))"


def _mean(metric: str) -> str:
    window = f"{{{_MODEL}}}[$__rate_interval]"
    return f"sum(rate({metric}_sum{window})) / sum(rate({metric}_count{window}))"


ROWS: dict[str, tuple[Panel, ...]] = {
    "Service": (
        ("Up", "none", {"{{job}}": 'up{job=~"everloop-.*"}'}),
        (
            "Requests",
            "reqps",
            {"{{route}} {{status}}": _rate("llm_requests_total", "route, status")},
        ),
        (
            "Failed share of the requests that generate",
            "percentunit",
            {
                "error or timeout": "sum(rate(llm_requests_total{"
                'route=~"chat|completions", status=~"error|timeout"}[5m])) '
                '/ sum(rate(llm_requests_total{route=~"chat|completions"}[5m]))'
            },
        ),
        ("Served model version", "none", {"{{model}} {{precision}}": "llm_model_info == 1"}),
        ("Model swaps", "none", {"{{result}}": "sum by (result) (llm_model_swap_total)"}),
        (
            "Memory",
            "bytes",
            {"{{job}}": 'process_resident_memory_bytes{job=~"everloop-.*"}'},
        ),
    ),
    "Latency": (
        ("Time to first token", "s", _quantiles("llm_time_to_first_token_seconds")),
        ("Inter-token latency", "s", _quantiles("llm_inter_token_latency_seconds")),
        ("Whole request", "s", _quantiles("llm_e2e_request_latency_seconds")),
        ("Time in the queue", "s", _quantiles("llm_queue_time_seconds")),
        ("Prefill", "s", _quantiles("llm_prefill_time_seconds")),
        ("Decode", "s", _quantiles("llm_decode_time_seconds")),
    ),
    "Engine": (
        (
            "Tokens",
            "short",
            {
                "prompt/s": _rate("llm_prompt_tokens_total", "job"),
                "generated/s": _rate("llm_generation_tokens_total", "job"),
            },
        ),
        (
            "Requests in the engine",
            "none",
            {
                "running": f"sum(llm_requests_running{{{_MODEL}}})",
                "waiting": f"sum(llm_requests_waiting{{{_MODEL}}})",
            },
        ),
        ("Cache in use", "percentunit", {"{{model}}": f"llm_kv_cache_usage_ratio{{{_MODEL}}}"}),
        ("Step time", "s", _quantiles("llm_engine_step_seconds")),
        ("Mean batch size", "none", {"sequences": _mean("llm_batch_size")}),
        (
            "Prompt tokens from the prefix cache",
            "percentunit",
            {
                "hit share": f"{_rate('llm_prefix_cache_hits_total', 'job')} "
                f"/ {_rate('llm_prefix_cache_queries_total', 'job')}"
            },
        ),
        (
            "Drafted tokens",
            "short",
            {
                "checked/s": _rate("llm_spec_decode_num_draft_tokens_total", "job"),
                "accepted/s": _rate("llm_spec_decode_num_accepted_tokens_total", "job"),
            },
        ),
        (
            "Drafted tokens that were accepted",
            "percentunit",
            {
                "share": f"{_rate('llm_spec_decode_num_accepted_tokens_total', 'job')} "
                f"/ {_rate('llm_spec_decode_num_draft_tokens_total', 'job')}"
            },
        ),
        (
            "Ended at the deadline or by the client",
            "percentunit",
            {
                "{{finish_reason}}": _rate(
                    "llm_request_success_total",
                    "finish_reason",
                    f'{_MODEL}, finish_reason=~"timeout|abort"',
                )
                + " / ignoring(finish_reason) group_left "
                + f"sum (rate(llm_request_success_total{{{_MODEL}}}[$__rate_interval]))"
            },
        ),
        (
            "Finished requests",
            "reqps",
            {"{{finish_reason}}": _rate("llm_request_success_total", "finish_reason")},
        ),
        (
            "Mean length in tokens",
            "none",
            {
                "prompt": _mean("llm_request_prompt_tokens"),
                "answer": _mean("llm_request_generation_tokens"),
            },
        ),
        (
            "Event loop lag",
            "s",
            {
                "p99": "histogram_quantile(0.99, sum by (le) "
                "(rate(llm_event_loop_lag_seconds_bucket[$__rate_interval])))"
            },
        ),
    ),
    "Quality": (
        (
            "Feedback per hour",
            "none",
            {"{{rating}}": "sum by (rating) (increase(llm_feedback_total[1h]))"},
        ),
        ("Share of drifted columns", "percentunit", {"share": "llm_drift_share"}),
        ("Drift score", "none", {"{{column}}": "llm_drift_score"}),
        ("Columns that drifted", "none", {"{{column}}": "llm_drift_detected == 1"}),
        (
            "Age of the last drift run",
            "s",
            {"age": "time() - llm_monitor_last_run_timestamp_seconds"},
        ),
        (
            "Lost records and failed drift runs per hour",
            "none",
            {
                "records": "increase(llm_store_dropped_total[1h])",
                "drift runs": "increase(llm_monitor_failures_total[1h])",
            },
        ),
    ),
    "Training": (
        (
            "Loss of running trainings",
            "none",
            {
                "{{run}} training": "llm_training_loss",
                "{{run}} validation": "llm_training_validation_loss",
            },
        ),
        ("Tokens learnt per second", "short", {"{{run}}": "llm_training_tokens_per_second"}),
        ("Spent share of the budget", "percentunit", {"{{run}}": "llm_training_progress_ratio"}),
        ("Learning rate", "none", {"{{run}}": "llm_training_learning_rate"}),
        ("Time left", "s", {"{{run}}": "llm_training_remaining_seconds"}),
        ("Steps", "none", {"{{run}}": "llm_training_step"}),
    ),
}


def build() -> dict[str, Any]:
    """Lay the panels out, three in a row under a heading each."""
    panels: list[dict[str, Any]] = []
    top = 0
    for heading, row in ROWS.items():
        place = {"x": 0, "y": top, "w": _WIDTH * _COLUMNS, "h": 1}
        panels.append({"type": "row", "title": heading, "gridPos": place, "panels": []})
        panels += [_panel(panel, index, top + 1) for index, panel in enumerate(row)]
        top += 1 + _HEIGHT * -(-len(row) // _COLUMNS)
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
    return {
        "uid": "everloop",
        "title": "Everloop",
        "tags": ["llm"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_datasource(), _model()]},
        "panels": panels,
    }


def _panel(panel: Panel, index: int, top: int) -> dict[str, Any]:
    title, unit, queries = panel
    row, column = divmod(index, _COLUMNS)
    place = {"x": column * _WIDTH, "y": top + row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
    return {
        "type": "timeseries",
        "title": title,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"tooltip": {"mode": "multi"}, "legend": {"displayMode": "list"}},
        "targets": [
            {"refId": chr(ord("A") + number), "expr": expression, "legendFormat": legend}
            for number, (legend, expression) in enumerate(queries.items())
        ],
    }


def _datasource() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
    }


def _model() -> dict[str, Any]:
    return {
        "name": "model",
        "label": "Model version",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": "label_values(llm_model_info, model)", "refId": "model"},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


if __name__ == "__main__":
    DASHBOARD.write_text(json.dumps(build(), indent=2) + "\n", encoding="utf-8")
