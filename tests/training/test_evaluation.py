"""The report of a run that was really trained."""

import json
from pathlib import Path

import pytest

from tests.training.preferences import pairs, rated
from tests.training.test_row_quality import _chat, _text
from training.config import DpoConfig
from training.evaluation import evaluate_checkpoint
from training.run_report import make_report
from training.run_report_page import write_report
from training.tune import fine_tune


@pytest.mark.slow
def test_report_tells_what_a_run_came_to(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = DpoConfig(
        max_steps=4, device_batch_size=4, grad_accum_steps=1, eval_every=2, log_every=1,
        warmup_steps=1, num_threads=1, adamw_learning_rate=0.01,
    )  # fmt: skip
    run = tmp_path / "tuned-dpo"
    checkpoint = fine_tune(tiny_checkpoint, pairs("train", 8), pairs("validation", 4), run, config)
    rows = [
        _text(1, "A lazy dog sorts the items.", "list"), _chat("What is it?", "<b>A list</b>."),
        *pairs("validation", 4), *rated("validation", 4),
    ]  # fmt: skip
    found = evaluate_checkpoint(checkpoint.path, rows, parent=tiny_checkpoint, num_threads=1)
    report = make_report(run, checkpoint, found, parent="base")
    page = write_report(report, run).read_text(encoding="utf-8")
    data = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert data["method"] == "dpo"
    assert [point["step"] for point in data["curves"] if point["val_loss"] is not None] == [0, 2, 4]
    assert {group["name"] for group in data["quality"]} == {"chat", "text", "text: list"}
    assert all(group["parent_loss"] > 0 for group in data["quality"])
    assert data["preference"]["reward_accuracy"] == 1.0
    assert {"processor", "memory"} <= data["hardware"].keys()
    assert report.verdict in page
    assert "started from base" in page
    assert '<th class="number">change</th>' in page
    assert "&lt;b&gt;A list&lt;/b&gt;" in page  # what a row says is text on the page
    assert "https://" not in page.split("</script>")[-1]
