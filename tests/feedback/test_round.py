"""Rounds of the loop on an imported model, as far as no training is needed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from everloop.importing import import_checkpoint
from everloop.records import Feedback, Interaction
from everloop.registry import ModelVersion, Registry
from everloop.sampling_defaults import IMPORTED
from everloop.settings import Home, RunFile
from feedback.loop import run_round
from feedback.rollout import promote
from feedback.store.database import insert_new, writing
from feedback.store.interactions import to_row
from feedback.store.store import open_store
from feedback.store.tables import feedback as feedback_table
from feedback.store.tables import interactions as interactions_table
from tests.tiny_model import make_tiny_checkpoint

Ask = Callable[..., Interaction]
Say = Callable[..., Feedback]

TEXT = "".join(f"The value of row {number} is {number * number}.\n" for number in range(400))


@pytest.fixture
def champion(home: Home, tmp_path: Path) -> ModelVersion:
    checkpoint = make_tiny_checkpoint(tmp_path / "elsewhere", family="llama", max_model_len=64)
    text = tmp_path / "text.md"
    text.write_text(TEXT, encoding="utf-8")
    run = RunFile.load(None, ("export.precision=fp32", "export.max_query_len=32"))
    version = import_checkpoint(home, run, checkpoint, text=str(text))
    store = open_store(home.database_url)
    promote(store, version.tag, "the first")
    store.close()
    return version


def correct(home: Home, asked: Ask, said: Say, numbers: range) -> None:
    store = open_store(home.database_url)
    with writing(store.engine) as connection:
        asks = [to_row(asked(number)) for number in numbers]
        says = [to_row(said(number, "demonstration", f"It is {number}.")) for number in numbers]
        insert_new(connection, interactions_table, asks)
        insert_new(connection, feedback_table, says)
    store.close()


@pytest.mark.slow
def test_a_round_waits_for_what_the_gate_needs_and_says_so_once(
    home: Home, champion: ModelVersion, asked: Ask, said: Say
) -> None:
    run = RunFile.load(None, ("trigger.min_corrections=100",))
    correct(home, asked, said, range(100))  # 29 of them are held out

    results = [run_round(home, run, dry_run=True) for _ in range(3)]

    assert {result.outcome for result in results} == {"waiting"}
    (reason,) = results[0].reasons
    assert "29 to judge by (feedback.min_holdout_rows or gate.min_rows = 30)" in reason
    store = open_store(home.database_url)
    assert [item.verdict for item in store.decisions(kind="trigger")] == ["wait"]
    store.close()


@pytest.mark.slow
def test_a_round_on_an_imported_model_keeps_what_the_import_needed(
    home: Home, champion: ModelVersion, asked: Ask, said: Say
) -> None:
    correct(home, asked, said, range(110))
    run = RunFile.load(
        None,
        (
            "trigger.min_corrections=100",
            "loop.epochs=0.2",
            "loop.num_threads=1",
            "loop.validation_windows=16",
            "sft.device_batch_size=8",
        ),
    )

    result = run_round(home, run)

    assert result.outcome in ("kept", "promoted"), result.reasons
    assert result.gate is not None
    assert result.gate.numbers["rows"] >= 30
    assert result.candidate is not None
    candidate = Registry(home).get(result.candidate).manifest
    assert candidate.name == "elsewhere"
    assert candidate.settings == champion.manifest.settings
    assert candidate.sampling == IMPORTED
    assert candidate.weight_precision == "fp32"
