"""Fine-tuning beside TRL: the reading of rows, and the command on the tiny model."""

import json
from pathlib import Path

import pytest

from benchmarks.finetune import summarise
from benchmarks.finetune_rows import made_up_conversations, read_conversations
from benchmarks.finetune_side import Outcome
from everloop.errors import DataError
from tests.benchmarks.test_commands import run


def test_conversations_are_read_from_lines_and_dialogues(tmp_path: Path) -> None:
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"question": "1+1?", "answer": "2"}\n', encoding="utf-8")
    (row,) = read_conversations(lines)
    assert [(one.role, one.content) for one in row.messages or ()] == [
        ("user", "1+1?"), ("assistant", "2"),
    ]  # fmt: skip
    dialogues = tmp_path / "rows.json"
    said = [("user", "Tea"), ("user", "please."), ("agent", "Black?"), ("user", "Yes.")]
    content = [{"utterances": [{"speaker": who, "text": text} for who, text in said]}]
    dialogues.write_text(json.dumps(content), encoding="utf-8")
    (row,) = read_conversations(dialogues)
    assert [(one.role, one.content) for one in row.messages or ()] == [
        ("user", "Tea\nplease."), ("assistant", "Black?"),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["[]", '{"text": "no conversation"}', "no JSON"])
def test_a_file_without_conversations_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "rows").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="rows holds no conversation"):
        read_conversations(tmp_path / "rows")


def test_made_up_conversations_are_the_same_at_every_call() -> None:
    assert made_up_conversations(5) == made_up_conversations(5)


def test_less_memory_and_less_loss_are_better() -> None:
    ours = Outcome(seconds=1.0, peak_bytes=10, loss=2.0)
    theirs = Outcome(seconds=2.0, peak_bytes=20, loss=1.0)
    speed, memory, loss, before = summarise([(ours, theirs)], 100.0, True, 3.0)
    assert (speed.value, speed.peer, speed.ratio, speed.ok) == (100, 50, 2, True)
    assert (memory.ratio, memory.ok) == (0.5, True)
    assert (loss.ratio, loss.ok) == (2, False)
    assert before.value == 3.0


@pytest.mark.slow
def test_both_sides_train() -> None:
    sizes = ["--steps", "3", "--batch", "2", "--held", "4", "--threads", "1"]
    named = {result["name"]: result for result in run("finetune", *sizes)["results"]}
    assert named["training / TRL"]["peer"] > 0
    assert named["peak memory / TRL"]["value"] > 0.1
    assert 0 < named["loss of held-out answers / TRL"]["value"] < 20
