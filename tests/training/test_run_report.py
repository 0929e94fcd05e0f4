"""What a report says of a run: in words whether it overfits, and what it cost."""

import random
from pathlib import Path

import pytest

from everloop.records import DatasetRow, Source
from training.checkpoint import Checkpoint, CheckpointRecord
from training.config import ModelConfig, PretrainConfig
from training.pretrain import pretrain
from training.run_report import Findings, GroupQuality, make_report
from training.run_report_page import write_report
from training.shards import write_shards

METRICS = {
    "val_loss": 2.5, "best_step": 20.0, "steps": 40.0, "tokens": 40960.0, "seconds": 8192.0,
    "parameters": 1e6, "cpu_seconds": 64.25,
}  # fmt: skip


def _page(folder: Path, metrics: dict[str, float], found: Findings, parent: str | None) -> str:
    checkpoint = Checkpoint(folder, CheckpointRecord(files={}, metrics=metrics))
    page = write_report(make_report(folder, checkpoint, found, parent=parent), folder)
    return page.read_text(encoding="utf-8").rpartition("<main>")[2]


@pytest.mark.slow
def test_an_overfitted_run_is_said_to_overfit(tiny_tokenizer: Path, tmp_path: Path) -> None:
    """A real run: it learns by heart in which order ten words come, which is chance."""
    chance = random.Random(0)
    words = ["dog", "fox", "list", "items", "raises", "sorts", "string", "join", "empty", "lazy"]
    rows = [
        DatasetRow(
            id=f"{number:064d}",
            split=split,
            sources=(Source(kind="document", id="nonsense"),),
            text=" ".join(chance.choice(words) for _ in range(90)),
        )
        for number, split in enumerate(("train", "validation"))
    ]
    write_shards(rows, tiny_tokenizer, tmp_path / "shards", "ds-0123456789ab")
    config = PretrainConfig(
        max_steps=48, device_batch_size=4, eval_every=8, eval_windows=4, log_every=4, patience=6,
        warmup_steps=1, num_threads=1,
    )  # fmt: skip
    model = ModelConfig(size="1m", context_length=32)
    run = tmp_path / "run"
    checkpoint = pretrain(tmp_path / "shards", tiny_tokenizer, run, model, config)
    report = make_report(run, checkpoint, Findings())
    assert report.verdict.startswith("The run overfits: after step ")
    assert "while the training loss fell" in report.verdict
    assert report.verdict in write_report(report, run).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("measured", "shown"),
    [
        ({}, ["energy of processor and memory</span><b>not measurable on this machine"]),
        ({"energy_joules": 7200.0}, ["memory</span><b>2 Wh, other programs included"]),
        (
            {"energy_joules": 900.0, "gpu_joules": 5.4e6},
            ["memory</span><b>0.25 Wh, other", "energy of the GPU</span><b>1,500 Wh"],
        ),
    ],
)
def test_page_tells_time_and_energy(
    tmp_path: Path, measured: dict[str, float], shown: list[str]
) -> None:
    page = _page(tmp_path, METRICS | measured, Findings(), None)
    assert "time</span><b>2 h 16 min" in page
    assert "processor time</span><b>64.2 s" in page
    assert "speed</span><b>5 tokens/s" in page
    for text in shown:
        assert text in page


def test_page_compares_with_the_parent(tmp_path: Path) -> None:
    group = GroupQuality(
        name="text", rows=3, tokens=90, loss=2.0, perplexity=7.4, bits_per_byte=1.8,
        parent_loss=2.2, parent_bits_per_byte=2.0,
    )  # fmt: skip
    page = _page(tmp_path, METRICS, Findings(quality=(group,)), "base-pretrain")
    assert "started from base-pretrain" in page
    assert '<td class="number">2.0000</td><td class="number">-10.0 %</td>' in page
    alone = group.model_copy(update={"parent_loss": None, "parent_bits_per_byte": None})
    page = _page(tmp_path, METRICS, Findings(quality=(alone,)), None)
    assert "change" not in page


def test_page_of_a_model_from_elsewhere_does_without_metrics(tmp_path: Path) -> None:
    page = _page(tmp_path, {}, Findings(), None)
    assert "The model was not trained here: there are no curves." in page
    assert "validation loss" not in page
