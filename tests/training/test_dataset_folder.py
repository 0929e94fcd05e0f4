import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from everloop.errors import DataError, EverloopError
from everloop.records import DatasetInfo, DatasetRow, Message, Source
from everloop.settings import Home
from training.corpus import Dropped
from training.dataset_folder import (
    DatasetWriter,
    read_dropped,
    read_info,
    read_rows,
    verify_dataset,
    write_dataset,
)

TEXT = DatasetRow(
    id="a", split="train", sources=(Source(kind="document", id="d1"),), text="naïve\u2028text"
)
CHAT = DatasetRow(
    id="b",
    split="holdout",
    sources=(Source(kind="interaction", id="i1"), Source(kind="feedback", id="f1")),
    messages=(Message(role="user", content="hi"), Message(role="assistant", content="yo")),
    topic="os",
)


def write(home: Home, *rows: DatasetRow) -> DatasetInfo:
    return write_dataset(rows, home, sources=["chats"], licences=["MIT", "MIT"], parent="ds-0")


def test_write_dataset_is_read_back(home: Home) -> None:
    info = write(home, TEXT, CHAT)
    folder = home.data / info.id
    assert list(read_rows(folder)) == [TEXT, CHAT]
    assert read_info(folder) == verify_dataset(folder) == info
    assert info.id == f"ds-{info.merkle_root[:12]}"
    assert info.counts == {"holdout": {"chat": 1}, "train": {"text": 1}}
    assert (info.rows, info.sources, info.licences, info.parent) == (
        2,
        ("chats",),
        ("MIT",),
        "ds-0",
    )


def test_write_dataset_gives_the_same_content_the_same_version(home: Home) -> None:
    first = write(home, TEXT, CHAT)
    assert write(home, TEXT, CHAT) == first
    assert [path.name for path in home.data.iterdir()] == [first.id]


def test_version_depends_on_everything_in_a_row(home: Home) -> None:
    other_split = TEXT.model_copy(update={"split": "validation"})
    other_source = TEXT.model_copy(update={"sources": (Source(kind="document", id="d2"),)})
    assert len({write(home, row).id for row in (TEXT, other_split, other_source)}) == 3


@pytest.mark.parametrize("position", [0, 30, -3])
def test_read_rows_refuses_a_changed_byte(home: Home, position: int) -> None:
    info = write(home, TEXT, CHAT)
    path = home.data / info.id / "rows.jsonl"
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"was changed after dataset {info.id} was built"):
        read_rows(home.data / info.id)


def test_read_rows_refuses_a_missing_row(home: Home) -> None:
    info = write(home, TEXT, CHAT)
    path = home.data / info.id / "rows.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(DataError, match="was changed after"):
        read_rows(home.data / info.id)


def test_write_dataset_refuses_to_pass_for_a_changed_version(home: Home) -> None:
    info = write(home, TEXT)
    (home.data / info.id / "rows.jsonl").write_bytes(b"{}\n")
    with pytest.raises(DataError, match="Delete the folder and build it again"):
        write(home, TEXT)


def test_writer_leaves_nothing_behind_after_an_error(home: Home) -> None:
    with pytest.raises(KeyError), DatasetWriter(home) as writer:
        writer.add(TEXT)
        raise KeyError
    assert list(home.data.iterdir()) == []


def test_writer_keeps_what_was_dropped(home: Home) -> None:
    drops = [
        Dropped(id="x", source="a.jsonl:3", step="read", reason="not_json", text="{ ü"),
        Dropped(id="y", source="a.jsonl:4", step="read", reason="not_json", text="["),
        Dropped(id="z", source="os", step="length", reason="too_short", text=""),
    ]
    with DatasetWriter(home) as writer:
        writer.add(TEXT)
        for dropped in drops:
            writer.drop(dropped)
        info = writer.finish(sources=["a.jsonl"], licences=[])
    assert info.dropped == {"length": {"too_short": 1}, "read": {"not_json": 2}}
    kept = list(read_dropped(home.data / info.id))
    assert [(item.source, item.text) for item in kept] == [
        ("a.jsonl:3", "{ ü"),
        ("a.jsonl:4", "["),
        ("os", ""),
    ]


def test_read_info_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no dataset version"):
        read_info(tmp_path)
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(DataError, match=r"dataset\.json is damaged"):
        read_info(tmp_path)


def test_verify_dataset_names_a_missing_file(home: Home) -> None:
    folder = home.data / write(home, TEXT).id
    (folder / "rows.jsonl").unlink()
    with pytest.raises(DataError, match=r"rows\.jsonl cannot be read"):
        verify_dataset(folder)


@contextmanager
def full_disk(free_bytes: int) -> Iterator[None]:
    """No file may grow beyond this: writing fails as it does when the disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_earlier_versions_whole(home: Home) -> None:
    before = write(home, TEXT, CHAT)
    long = TEXT.model_copy(update={"text": "word " * 100_000})
    with full_disk(100_000), pytest.raises(EverloopError, match=r"cannot be written to .*data"):
        write(home, TEXT, long)
    assert [path.name for path in home.data.iterdir()] == [before.id]
    assert verify_dataset(home.data / before.id) == before
