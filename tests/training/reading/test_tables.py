import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from everloop.errors import DataError
from everloop.records import Document
from training.corpus import Conversation, Dropped
from training.reading.options import ReadOptions
from training.reading.tables import read_csv, read_parquet

OPTIONS = ReadOptions("MIT", "text", 100, collection="c")
TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


def write_csv(path: Path, *rows: dict[str, str], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0], delimiter=delimiter)
        table.writeheader()
        table.writerows(rows)
    return path


def test_read_csv_reads_quoted_lines_and_columns_of_json(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "a.csv",
        {"id": "7", "text": 'two\nlines, "quoted"', "messages": ""},
        {"id": "8", "text": "", "messages": json.dumps(TURNS)},
    )
    first, second = read_csv(str(path), OPTIONS)
    assert isinstance(first, Dropped)  # an empty messages column is a conversation without turns
    assert first.reason == "no_messages"
    assert isinstance(second, Conversation)
    assert (second.id, second.messages[1].content) == ("c/8", "yo")


def test_read_csv_takes_the_tab_of_tsv_and_compression(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.tsv", {"text": "one, two", "b": "3"}, delimiter="\t")
    packed = tmp_path / "b.tsv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    for file in (path, packed):
        (item,) = read_csv(str(file), OPTIONS)
        assert isinstance(item, Document)
        assert (item.text, item.source) == ("one, two", f"{file}:2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"body,b\nx,y\n", r"has no column 'text'; it has body, b"),
        (b"text\ngut\ngr\xfcn\n", r"is not UTF-8"),
        (b"", r"has no column 'text'"),
    ],
)
def test_read_csv_names_what_is_wrong(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_csv(str(path), OPTIONS))


def test_read_parquet_reads_texts_and_nested_turns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2], "text": ["one", "two"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"messages": [TURNS]}), tmp_path / "b.parquet")
    texts = list(read_parquet(str(tmp_path / "a.parquet"), OPTIONS))
    assert [(item.id, item.source) for item in texts] == [
        ("c/1", f"{tmp_path}/a.parquet:1"), ("c/2", f"{tmp_path}/a.parquet:2"),
    ]  # fmt: skip
    (chat,) = read_parquet(str(tmp_path / "b.parquet"), OPTIONS)
    assert isinstance(chat, Conversation)
    assert [turn.content for turn in chat.messages] == ["hi", "yo"]


def test_read_parquet_refuses_other_columns_and_other_files(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["one"], "n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no column 'text'; it has body, n\. Name the text's"):
        list(read_parquet(str(tmp_path / "a.parquet"), OPTIONS))
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"b\.parquet is no readable Parquet file"):
        list(read_parquet(str(tmp_path / "b.parquet"), OPTIONS))
