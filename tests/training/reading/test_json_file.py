import gzip
import json
from pathlib import Path

import pytest

from everloop.errors import DataError
from everloop.records import Document
from training.corpus import Conversation, Dropped, Item
from training.reading import json_file
from training.reading.json_file import read_json
from training.reading.options import ReadOptions

OPTIONS = ReadOptions("MIT", "text", 100, collection="c")
TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


def read(path: Path, content: str) -> list[Item]:
    path.write_text(content, encoding="utf-8")
    return list(read_json(str(path), OPTIONS))


def test_read_json_reads_the_elements_of_a_list(tmp_path: Path) -> None:
    rows = [{"text": 'one, "[two]"', "id": 1}, {"messages": TURNS}, 5, {"title": "none"}]
    path = tmp_path / "a.json"
    text, chat, *dropped = read(path, json.dumps(rows, indent=2))
    assert isinstance(text, Document)
    assert (text.id, text.text, text.source) == ("c/1", 'one, "[two]"', f"{path}:1")
    assert isinstance(chat, Conversation)
    assert chat.messages[1].content == "yo"
    assert [(one.source, one.reason) for one in dropped if isinstance(one, Dropped)] == [
        (f"{path}:3", "not_an_object"), (f"{path}:4", "no_text"),
    ]  # fmt: skip


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_read_json_does_not_depend_on_the_size_of_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(json_file, "_BLOCK_CHARACTERS", size)
    rows = [{"text": f"text {number} é" * number} for number in range(1, 20)]
    found = read(tmp_path / "a.json", json.dumps(rows, ensure_ascii=False))
    assert [item.text for item in found if isinstance(item, Document)] == [
        row["text"] for row in rows
    ]


def test_read_json_reads_lines_and_compressed_files(tmp_path: Path) -> None:
    lines = '{"text": "one"}\n{"text": "two"}\n'
    assert len(read(tmp_path / "a.json", lines)) == 2
    packed = tmp_path / "b.json.gz"
    packed.write_bytes(gzip.compress(b'\xef\xbb\xbf[{"text": "one"}]'))
    assert len(list(read_json(str(packed), OPTIONS))) == 1


def test_read_json_drops_the_settings_of_a_program(tmp_path: Path) -> None:
    (item,) = read(tmp_path / "package.json", '{"name": "x", "version": "1"}')
    assert isinstance(item, Dropped)
    assert item.reason == "no_text"
    (item,) = read(tmp_path / "a.json", '{"text": "a text of its own"}')
    assert isinstance(item, Document)
    assert read(tmp_path / "empty.json", "[]") == read(tmp_path / "none.json", " ") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"text": "one"}, {"text": ', r"a\.json: record 2 is no JSON"),
        (b'[{"text": "one"}', r"ends within its list: it is cut short"),
        (b'[{"text": "gr\xfcn"}]', r"a\.json is not UTF-8 \(byte 0xfc\)"),
        (b'[{"q": 1}, {"q": 2}]', r"none of its 2 records can be used.* Record 1 has q\."),
        (b"[" * 100_000, r"record 1 is no JSON"),
    ],
)
def test_read_json_names_what_is_wrong(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_json(str(tmp_path / "a.json"), OPTIONS))


def test_read_json_refuses_a_value_without_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_file, "_MAX_VALUE_CHARACTERS", 1000)
    monkeypatch.setattr(json_file, "_BLOCK_CHARACTERS", 100)
    (tmp_path / "a.json").write_text('["' + "x" * 100_000)
    with pytest.raises(DataError, match="record 1 is no JSON"):
        list(read_json(str(tmp_path / "a.json"), OPTIONS))
