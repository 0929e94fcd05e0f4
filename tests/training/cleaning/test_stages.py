"""Stages on disk: what is done stays done, whatever ends the process."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from everloop.errors import ConfigError
from everloop.settings import Home
from tests.training.cleaning.corpus import config, write_corpus
from training.cleaning.stages import deal
from training.corpus import Item
from training.dataset import build_dataset, read_dropped
from training.reading.options import ReadOptions
from training.sources import Input, SourceConfig, find_inputs, read_input
from training.work_folder import work_folder

ROOT = Path(__file__).parents[3]


def inputs(*sizes: int) -> list[Input]:
    options = ReadOptions("MIT", "text", 100)
    return [Input(str(at), "text", size, options, SourceConfig(path="a"))
            for at, size in enumerate(sizes)]  # fmt: skip


def test_deal_fills_tasks_with_neighbours() -> None:
    shares = deal(inputs(4, 4, 4, 20, 1), 8)
    assert [[int(found.location) for found in share] for share in shares] == [[0, 1], [2], [3], [4]]
    assert deal([], 8) == [[]]


def test_drops_name_the_document_that_stays(tmp_path: Path, home: Home) -> None:
    folder = write_corpus(tmp_path / "corpus", files=2)
    info = build_dataset(config(folder), home)
    details = [item.detail for item in read_dropped(home.data / info.id) if item.detail]
    assert len(details) == 4
    assert sum("(similarity 0." in detail for detail in details) == 2
    assert all(detail.startswith(f"{folder}/0.jsonl:") for detail in details)


KILLED = """
import signal, sys
from pathlib import Path
from everloop.settings import Home
from tests.training.cleaning.corpus import config
from training.cleaning import source_reader
from training.dataset import build_dataset

read = source_reader.read_input

def wait_at_the_last(found, seed):
    if found.location.endswith("3.jsonl"):
        signal.pause()
    return read(found, seed)

source_reader.read_input = wait_at_the_last
build_dataset(config(Path(sys.argv[1])), Home(Path(sys.argv[2])))
"""


@pytest.mark.slow
def test_a_build_that_is_killed_goes_on_where_it_was(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_corpus(tmp_path / "corpus", files=4)
    expected = build_dataset(config(folder), Home(tmp_path / "other"))
    command = [sys.executable, "-c", KILLED, str(folder), str(home.root)]
    process = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + 60
    while len(list(home.data.glob(".work-*/logs/clean/completions/*"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    read_again: list[str] = []

    def note(found: Input, seed: int) -> Iterator[Item]:
        read_again.append(Path(found.location).name)
        return read_input(found, seed)

    monkeypatch.setattr("training.cleaning.source_reader.read_input", note)
    assert build_dataset(config(folder), home).id == expected.id
    assert read_again == ["3.jsonl"]
    assert [path.name for path in home.data.iterdir()] == [expected.id]


def test_two_builds_of_the_same_are_refused(tmp_path: Path, home: Home) -> None:
    folder = write_corpus(tmp_path / "corpus", files=1)
    table = config(folder)
    found = find_inputs(table.all_sources, ReadOptions("MIT", "text", 4000))
    with (
        work_folder(home, table, found),
        pytest.raises(ConfigError, match="another process builds this dataset"),
    ):
        build_dataset(table, home)


PEAK = """
import resource, sys
from pathlib import Path
from everloop.settings import Home
from tests.training.cleaning.corpus import config
from training.dataset import build_dataset
build_dataset(config(Path(sys.argv[1]), task_megabytes=0.5), Home(Path(sys.argv[2])))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    peaks = {}
    for files in (2, 16):
        folder = write_corpus(tmp_path / f"corpus{files}", files=files, texts=1200)
        command = [sys.executable, "-c", PEAK, str(folder), str(tmp_path / f"home{files}")]
        output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
        peaks[files] = int(output) / 1024
    size = sum(path.stat().st_size for path in (tmp_path / "corpus16").iterdir()) / 2**20
    assert size > 5
    assert peaks[16] - peaks[2] < size
