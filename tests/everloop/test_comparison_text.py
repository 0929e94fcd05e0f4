"""A checkpoint that brings no text is measured on the nearest one that is long enough."""

import json
from pathlib import Path

import pytest

from everloop.comparison_text import comparison_windows
from everloop.errors import DataError
from everloop.lifecycle import build_data
from everloop.settings import Home, RunFile
from tests.tiny_model import make_tiny_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_tiny_checkpoint(tmp_path / "tiny", family="llama", max_model_len=64)


def build(home: Home, folder: Path, rows: list[dict[str, object]]) -> str:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    data = {"sources": [str(folder / "rows.jsonl")], "min_words": 1, "min_characters": 1,
            "validation_share": 0.4, "duplicates": {"near": False}}  # fmt: skip
    return build_data(home, RunFile("test", {"data": data})).id


def talk(number: int) -> dict[str, object]:
    return {"prompt": f"What is {number}?", "completion": f"It is the number {number}."}


def test_conversations_are_measured_where_no_text_is_at_hand(
    home: Home, checkpoint: Path, tmp_path: Path
) -> None:
    dataset = build(home, tmp_path, [talk(number) for number in range(60)])
    windows = comparison_windows(home, checkpoint, 4)
    assert windows.name == f"validation conversations of {dataset}"
    assert windows.tokens.shape == (4, 65)


def test_texts_that_are_too_short_give_way_to_longer_ones(
    home: Home, checkpoint: Path, tmp_path: Path
) -> None:
    build(
        home,
        tmp_path,
        [{"text": f"This is the word of {number} and that."} for number in range(30)],
    )
    assert comparison_windows(home, checkpoint, 2).name == "Python's documentation"


def test_a_text_that_was_named_is_measured_or_refused_by_its_name(
    home: Home, checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "short.md"
    path.write_text("Short.", encoding="utf-8")
    with pytest.raises(DataError, match=r"--text .*short\.md: .* Name a longer text"):
        comparison_windows(home, checkpoint, 2, place=str(path))
    path.write_text("A longer text. " * 40, encoding="utf-8")
    assert comparison_windows(home, checkpoint, 2, place=str(path)).name == str(path)
