"""Stages on disk: what is done stays done, whatever ends the process."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from everloop.errors import ConfigError, EverloopError
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


def test_a_full_disk_keeps_what_is_done(tmp_path: Path, home: Home) -> None:
    folder = write_corpus(tmp_path / "corpus", files=2)
    (folder / "2.txt").write_text("a text of its own, that stays where it is\n")
    (folder / "logo.png").write_bytes(b"PNG")
    table = config(folder)
    found = find_inputs(table.all_sources, ReadOptions("MIT", "text", 4000))
    with work_folder(home, table, found) as work:
        full = work / "dropped" / "read" / "00002.jsonl"
        full.parent.mkdir(parents=True)
        full.symlink_to("/dev/full")  # every write fails with "no space left on device"
    with pytest.raises(EverloopError, match=r"cannot write to .* \(No space left on device\)"):
        build_dataset(table, home)
    assert len(list(work.glob("logs/clean/completions/*"))) == 2
    full.unlink()
    expected = build_dataset(table, Home(tmp_path / "other"))
    assert build_dataset(table, home).id == expected.id


def test_work_that_nobody_wants_any_more_is_removed(tmp_path: Path, home: Home) -> None:
    home.data.mkdir(parents=True)
    old, new = home.data / ".work-aaaaaaaaaaaa", home.data / ".work-bbbbbbbbbbbb"
    for work in (old, new):
        (work / "logs" / "clean" / "completions").mkdir(parents=True)
    for mark in (old, old / "logs" / "clean" / "completions", new):
        os.utime(mark, (0, 0))  # of the new one, a task was finished today
    build_dataset(config(write_corpus(tmp_path / "corpus", files=1)), home)
    assert (old.exists(), new.exists()) == (False, True)
