import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import FIRST, WINDOW, Measured, Scores, Way, lines_of, measure, steps_of
from benchmarks.quality_data import PROMPTS, QualityData
from benchmarks.random_model import TINY, make_checkpoint
from tests.benchmarks.stepped_models import CountingModel
from training.export.text_windows import TextWindows

ROOT = Path(__file__).parents[2]


def data(windows: int) -> QualityData:
    tokens = np.arange(windows * WINDOW).reshape(windows, WINDOW) % 40
    calibration = TextWindows(tokens=tokens, bytes_per_token=1.0, prompts=())
    return QualityData(tokens, calibration, [[1], [30]], frozenset({5}))


def test_a_model_is_compared_with_fp32_in_every_way() -> None:
    ways = (Way("prompt", 0, 10), Way("one", 1, 1), Way("eight", 8, 9))
    advanced: list[None] = []
    models = {
        "same": CountingModel("same", 50),
        "noisy": CountingModel("noisy", 50, noise=1.03),  # above the 1.01 of late places
    }
    measured = measure(
        CountingModel("exact", 50), models, data(10), ways, lambda: advanced.append(None)
    )
    assert len(advanced) == steps_of(2, 10, 3)
    for way in ways:
        same, noisy = measured.scores["same", way.name], measured.scores["noisy", way.name]
        assert same.divergences.shape == (way.windows, WINDOW - FIRST)
        assert (same.divergences == 0).all()
        assert (same.agreements == 1).all()
        assert (noisy.divergences > 0).all()
        assert 0 < noisy.agreements.mean() < 1
    assert measured.answers["same"].tolist() == [1.0, 1.0]


def scores(divergence: float, agreement: float) -> Scores:
    shape = (4, 2)
    return Scores(np.full(shape, divergence), np.full(shape, agreement))


def side(divergence: float, agreement: float, equal: list[float]) -> Measured:
    return Measured(
        {("int8", "prompt"): scores(divergence, agreement), ("int4", "prompt"): scores(9.0, 0.0)},
        {"int8": np.array(equal), "int4": np.zeros(4)},
    )


def test_lines_hold_the_interval_against_the_target() -> None:
    ours, theirs = side(0.004, 0.5, [1, 1, 0, 1]), side(0.002, 0.75, [1, 1, 1, 1])
    lines = lines_of("int8", ours, theirs, "llama.cpp Q8_0")
    assert [(line.name, line.value, line.peer, line.target, line.ok) for line in lines] == [
        ("int8, prompt: mean KL / llama.cpp Q8_0", 0.004, 0.002, 1.05, False),
        ("int8, prompt: p99 KL / llama.cpp Q8_0", 0.004, 0.002, None, None),
        ("int8, prompt: top-1 agreement / llama.cpp Q8_0", 50.0, 75.0, None, None),
        ("int8, prompt: top-1 agreement, difference", -25.0, None, -1.0, False),
        ("int8: greedy answers equal to fp32's / llama.cpp Q8_0", 75.0, 100.0, None, None),
        ("int8: greedy answers equal to fp32's, difference", -25.0, None, -10.0, False),
    ]
    assert lines[0].ratio_range == (2.0, 2.0)
    assert lines[5].value_range is not None
    assert lines[5].value_range[0] < -25 < lines[5].value_range[1]


def test_equal_sides_reach_the_targets() -> None:
    equal = side(0.002, 0.75, [1, 1, 0, 1])
    assert [line.ok for line in lines_of("int8", equal, equal, "llama.cpp Q8_0")] == [
        True, None, None, True, None, True,
    ]  # fmt: skip


def test_without_a_peer_our_own_figures_remain() -> None:
    lines = lines_of("int8", side(0.002, 0.75, [1, 1, 0, 1]), None, None)
    assert [(line.name, line.value) for line in lines] == [
        ("int8, prompt: mean KL", 0.002),
        ("int8, prompt: p99 KL", 0.002),
        ("int8, prompt: top-1 agreement", 75.0),
        ("int8: greedy answers equal to fp32's", 75.0),
    ]


def test_there_are_a_hundred_different_prompts() -> None:
    lines = PROMPTS.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(set(lines)) == 100
    assert all(line.strip() == line and line for line in lines)


@pytest.mark.slow
def test_command_measures_a_checkpoint_on_a_text(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", TINY)
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 200, encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.quality", "--model", checkpoint, "--text", text]
    options = ["--precision", "int8", "--windows", "2", "--prompts", "2", "--no-peer", "--json"]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = {result["name"]: result["value"] for result in json.loads(done.stdout)["results"]}
    for way in ("prompt in one step", "a token a step, 1 row", "a token a step, 8 rows"):
        assert 0 < results[f"int8, {way}: mean KL"] < results[f"int8, {way}: p99 KL"] < 0.1
        assert results[f"int8, {way}: top-1 agreement"] > 50
