from pathlib import Path

import pytest

from everloop.lifecycle import validation_windows
from everloop.manifest import DatasetRef
from everloop.records import DatasetRow
from everloop.settings import Home
from tests.tiny_model import make_tiny_checkpoint
from training.checkpoint import Checkpoint, read_checkpoint, write_sidecar
from training.shards import write_shards

DATASET = "ds-0123456789ab"


def learnt(folder: Path, home: Home, family: str, characters: int) -> Checkpoint:
    """A checkpoint that names a dataset, and the token shards of that dataset."""
    make_tiny_checkpoint(folder, family=family, max_model_len=64)
    reference = DatasetRef(id=DATASET, merkle_root="0", rows=2, use="pretrain")
    write_sidecar(
        folder, datasets=[reference], config={}, seed=1, parent=None, metrics={"val_loss": 5.0}
    )
    rows = [
        DatasetRow(id=split, split=split, sources=(), text="a" * characters)
        for split in ("train", "validation")
    ]
    write_shards(rows, folder, home.shards / DATASET, DATASET)
    return read_checkpoint(folder)


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "lstm"])
def test_validation_windows_are_as_long_as_the_model_takes(
    tmp_path: Path, home: Home, family: str
) -> None:
    found, bytes_per_token = validation_windows(home, learnt(tmp_path / "a", home, family, 1000), 4)
    assert found.shape == (4, 65)
    assert bytes_per_token == pytest.approx(1000 / 1001)


def test_validation_windows_of_a_short_split_are_as_long_as_it(tmp_path: Path, home: Home) -> None:
    found, _ = validation_windows(home, learnt(tmp_path / "a", home, "qwen3", 30), 4)
    assert found.shape == (1, 31)
