"""What the profiler wrote, by operator."""

from typing import Any

from benchmarks.operators import by_operator, results_of


def node(name: str, operator: str, start: int, micros: int) -> dict[str, Any]:
    return {
        "cat": "Node", "name": f"{name}/{operator}_kernel_time", "ts": start, "dur": micros,
        "args": {"op_name": operator},
    }  # fmt: skip


def test_layers_add_up_and_what_lies_between_them_is_the_rest() -> None:
    events: list[dict[str, Any]] = [{"name": "model_run", "ts": 0, "dur": 10_000}]
    events.append(node("layers.0.mlp", "MatMul", 500, 9_000))
    for start in (10_000, 20_000, 30_000):
        events += [
            {"name": "model_run", "ts": start, "dur": 9_000},
            node("layers.0.mlp", "MatMul", start + 100, 2_000),
            node("layers.11.mlp", "MatMul", start + 3_000, 3_000),
            node("model.layers.3.input_layernorm", "SkipNorm", start + 7_000, 50),
        ]
    found = by_operator(events, steps=2)
    assert found == {
        "whole step": [9.0, 9.0],
        "between operators": [3.95, 3.95],
        "MatMul, mlp": [5.0, 5.0],
        "SkipNorm, input_layernorm": [0.05, 0.05],
    }
    assert [(result.name, result.value) for result in results_of(8, found, None)] == [
        ("8 rows: whole step (100%)", 9.0),
        ("8 rows: MatMul, mlp (56%)", 5.0),
        ("8 rows: between operators (44%)", 3.95),
    ]
