"""A tiny tokenizer for all tests of training."""

from pathlib import Path

import pytest

from everloop.records import DatasetRow, Source
from training.tokenizer import TokenizerConfig, train_tokenizer

TINY_TEXT = (
    "The quick brown fox reads the documentation of os.path.join(a, *p) and returns a string.\n"
    "A lazy dog raises ValueError if the list is empty, and sorts the items in place otherwise.\n"
)


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer folder with a vocabulary of fewer than 512 tokens; do not write into it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    row = DatasetRow(
        id="0" * 64,
        split="train",
        sources=(Source(kind="document", id="tiny"),),
        text=TINY_TEXT * 20,
    )
    train_tokenizer([row], TokenizerConfig(vocab_size=512), folder)
    return folder
