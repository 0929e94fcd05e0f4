"""What the profiler wrote, by operator."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lone_side import lone_side
from benchmarks.operators import by_operator, decode_with_profile, results_of
from serving.engine import wide_steps


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


@pytest.mark.slow
@pytest.mark.parametrize("fp32_gain", [0.5, 2.0])
def test_profile_is_of_the_graph_that_ran_the_steps(
    fp32_gain: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where wide steps are faster a second session decodes; the first one's profile is empty."""
    monkeypatch.setattr(wide_steps, "may_win", lambda speed: True)
    monkeypatch.setattr(wide_steps.Comparison, "measure", lambda *_: (fp32_gain, 1.0))
    options = Namespace(tiny=True, precision="int8-kv8", spinning=False)
    with lone_side(options) as side:
        assert (side.engine._model_runner.wide_from is not None) == (fp32_gain > 1)
        events = decode_with_profile(side, rows=8, steps=6, folder=tmp_path)
    assert len(by_operator(events, steps=4)["whole step"]) == 4
