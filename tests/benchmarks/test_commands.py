"""The commands end to end on a tiny model, without any peer that has to be installed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine_limits import MachineLimits

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def run(module: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", "--tiny", "--quick", "--json", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_engine_measures_itself_and_transformers() -> None:
    document = run("engine", "--rounds", "1", "--peers", "transformers", "--precision", "fp32")
    assert document["benchmark"] == "engine"
    assert [result["name"] for result in document["results"]] == [
        "fp32 decode, 1 row / transformers float32",
        "fp32 decode, 1 row / fastest peer (transformers float32)",
        "fp32 decode, 8 rows / transformers float32",
        "fp32 decode, 8 rows / fastest peer (transformers float32)",
        "fp32 prefill / transformers float32",
        "fp32 prefill / fastest peer (transformers float32)",
        "fp32 single stream, share of the weights' bandwidth limit",
        "fp32 prefill, share of the fp32 multiplication peak",
    ]
    assert all(result["value"] > 0 for result in document["results"])


def test_server_measures_the_real_service() -> None:
    document = run("server", "--rounds", "1", "--peers", "", "--clients", "1,8")
    named = {result["name"]: result["value"] for result in document["results"]}
    for name in (
        "32 equal streams, through HTTP / bare loop",
        "Poisson, 1 client, TTFT p50",
        "Poisson, 8 clients, throughput",
        "8 streams, p99 while 2,000 tokens arrive / p50 before",
    ):
        assert named[name] > 0


def test_step_tells_python_from_the_graph() -> None:
    named = {result["name"]: result for result in run("step")["results"]}
    greedy = named["greedy, 1 row: Python outside run"]
    sampled = named["top_p 0.95, 32 rows: Python outside run, of the step"]
    assert (greedy["unit"], greedy["target"]) == ("us", 30.0)
    assert (sampled["unit"], sampled["target"]) == ("share", 0.05)
    assert greedy["value"] > 0
    assert 0 < sampled["value"] < 1


def test_operators_fill_the_step() -> None:
    named = {result["name"].partition(" (")[0]: result for result in run("operators")["results"]}
    whole, attention = named["8 rows: whole step"], named["8 rows: GroupQueryAttention, attention"]
    assert 0 < attention["value"] < whole["value"]


def test_hostile_inputs_end_no_stream() -> None:
    rows = run("hostile")["results"]
    assert rows[0]["input"] == "ordinary prompt of 2,047 tokens"
    assert len(rows) > 40
    assert {row["streams ended"] for row in rows} == {0}
    for row in rows[:-1]:
        assert row["answer"][0] in "1234567890lcC", row  # an answer, a client that left, or closed
        assert "no answer" not in row["answer"]
        assert " 500" not in row["answer"]


def test_machine_limits_are_more_than_nothing() -> None:
    limits = MachineLimits(bytes_per_second=1e15)
    limits.measure(1)
    assert limits.flops > 1e6
    assert limits.bytes_per_second == 1e15  # what was reached once can be reached
