import json
from collections.abc import Callable
from pathlib import Path

import pytest

from everloop.records import DatasetRow, Source
from tests.tiny_model import make_tiny_checkpoint
from training.tokenizer import TokenizerConfig, train_tokenizer

VOCAB_SIZE = 576
TEXT = "".join(
    f"def value_{number}(row):\n    return row.value + {number * number}  # it's {number}\n\n"
    for number in range(60)
)


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Random models of 576 tokens, whose tokenizer was learnt from `TEXT` and has merges."""

    def make(family: str, **settings: object) -> Path:
        folder = make_tiny_checkpoint(
            tmp_path / f"{family}-{len(list(tmp_path.iterdir()))}",
            family=family,
            vocab_size=VOCAB_SIZE,
            **settings,
        )
        row = DatasetRow(
            id="a", split="train", sources=(Source(kind="document", id="a"),), text=TEXT
        )
        train_tokenizer([row], TokenizerConfig(vocab_size=VOCAB_SIZE - 8), folder)
        return folder

    return make


def change_json(path: Path, **values: object) -> None:
    """Set keys of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8")) | values
    path.write_text(json.dumps(content), encoding="utf-8")
