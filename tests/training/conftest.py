"""A tiny tokenizer for all tests of training."""

from pathlib import Path

import pytest

from everloop.manifest import DatasetRef
from everloop.records import DatasetRow, Source
from training.checkpoint import write_sidecar
from training.shards import write_shards
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


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    """Token shards of texts that a tiny model can learn; do not write into them."""
    rows = [
        DatasetRow(
            id=f"{number:064d}",
            split=split,
            sources=(Source(kind="document", id="tiny"),),
            text=TINY_TEXT * 10,
        )
        for number, split in enumerate(("train", "train", "train", "validation"))
    ]
    folder = tmp_path_factory.mktemp("shards") / "shards"
    write_shards(rows, tiny_tokenizer, folder, "ds-0123456789ab")
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    """A checkpoint with random weights, context 64; do not write into it."""
    # Imported here: the tests of data need no torch.
    from training.config import ModelConfig
    from training.models import build_model
    from training.tokens import TokenizerFolder

    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = TokenizerFolder.read(tiny_tokenizer)
    config = ModelConfig(size="1m", context_length=64)
    model = build_model(config, tokenizer.vocab_size, tokenizer.special, seed=1)
    model.save_pretrained(folder)
    tokenizer.copy_to(folder)
    write_sidecar(
        folder,
        datasets=[DatasetRef(id="ds-0", merkle_root="0" * 64, rows=3, use="pretrain")],
        config={"kind": "pretrain"},
        seed=1,
        parent=None,
        metrics={"val_loss": 6.2},
    )
    return folder


@pytest.fixture(scope="session")
def tiny_recurrent_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path
) -> Path:
    """An LSTM with random weights, context 64; do not write into it."""
    from training.config import ModelConfig
    from training.models import build_model
    from training.tokens import TokenizerFolder

    folder = tmp_path_factory.mktemp("recurrent")
    tokenizer = TokenizerFolder.read(tiny_tokenizer)
    config = ModelConfig(kind="lstm", size="1m", context_length=64)
    build_model(config, tokenizer.vocab_size, tokenizer.special, seed=1).save_pretrained(folder)
    tokenizer.copy_to(folder)
    return folder
