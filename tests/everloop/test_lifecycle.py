import json
import subprocess
import sys
from pathlib import Path

import pytest

from everloop.lifecycle import validation_windows
from everloop.manifest import DatasetRef
from everloop.records import DatasetRow
from everloop.settings import Home
from tests.tiny_model import make_tiny_checkpoint
from tests.training.cleaning.corpus import sentence
from training.checkpoint import Checkpoint, read_checkpoint, write_sidecar
from training.shards import write_shards

DATASET = "ds-0123456789ab"
ROOT = Path(__file__).parents[2]


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


PEAK = """
import sys
from pathlib import Path
from everloop.lifecycle import build_data, prepare_tokens
from everloop.settings import Home, RunFile

home = Home(Path(sys.argv[2])).create()
data = {"sources": [sys.argv[1]], "executor": {"task_megabytes": 1.0}}
run = RunFile("test", {"data": data, "tokenizer": {"vocab_size": 600}})
prepare_tokens(home, run, build_data(home, run))
# Not getrusage: its peak goes back to the process that started this one.
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    peaks = {}
    for texts in (400, 6000):
        source = tmp_path / f"{texts}.jsonl"
        with source.open("w", encoding="utf-8") as file:
            for number in range(texts):
                file.write(json.dumps({"text": sentence(number, 800)}) + "\n")
        command = [sys.executable, "-c", PEAK, str(source), str(tmp_path / f"home{texts}")]
        output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
        peaks[texts] = int(output) / 1024
    size = source.stat().st_size / 2**20
    assert size > 15
    assert peaks[6000] - peaks[400] < size / 2
    assert peaks[6000] < 1000
