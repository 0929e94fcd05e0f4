import gzip
import json
import logging
from pathlib import Path

import fsspec
import pytest

from everloop.errors import DataError
from everloop.records import Document
from training.corpus import Conversation, Dropped, Item
from training.reading.options import ReadOptions
from training.sources import SourceConfig, find_inputs, read_input

OPTIONS = ReadOptions(licence="MIT", text_field="text", document_characters=100)
ANSWERED = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def read(*sources: Path | str, options: ReadOptions = OPTIONS) -> list[Item]:
    tables = [SourceConfig(path=str(source)) for source in sources]
    return [item for found in find_inputs(tables, options) for item in read_input(found, seed=0)]


def texts(items: list[Item]) -> list[str]:
    return [item.text for item in items if isinstance(item, Document)]


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_read_files_makes_one_document_of_a_short_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\ufeffOne.\r\n\r\nTwo: é.\n", encoding="utf-8")
    assert read(path) == [
        Document(
            id="a.txt#0",
            text="One.\n\nTwo: é.",
            source=f"{path}:1",
            licence="MIT",
            sha256="b57f1567b4828916b7ab32a4e9c1517fd18748a91f6b890184d2a4a785f029ed",
            collection="a.txt",
        )
    ]


def test_read_files_cuts_a_text_at_blank_lines(tmp_path: Path) -> None:
    paragraph = "x" * 60
    path = tmp_path / "a.md"
    path.write_text("\n\n".join([paragraph] * 5), encoding="utf-8")
    found = read(path)
    pair = f"{paragraph}\n\n{paragraph}"
    assert texts(found) == [pair, f"\n{pair}", f"\n{paragraph}"]
    assert [item.source for item in found] == [f"{path}:1", f"{path}:4", f"{path}:8"]


def test_read_files_keeps_every_character_of_a_text_without_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    lines = ["y" * 30] * 50 + ["z" * 1000]
    path.write_text("\n".join(lines), encoding="utf-8")
    found = texts(read(path))
    assert max(map(len, found)) <= 201
    assert "".join(found).replace("\n", "") == "".join(lines)


def test_read_files_keeps_ids_when_a_text_grows(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\n\n" * 100, encoding="utf-8")
    before = read(path)
    path.write_text("one\n\n" * 200, encoding="utf-8")
    assert read(path)[: len(before) - 1] == before[:-1]


def test_read_files_walks_a_folder_and_reports_other_types(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "sub" / "b.txt").write_text("in a folder")
    (tmp_path / ".git" / "c.txt").write_text("hidden")
    (tmp_path / "logo.png").write_bytes(b"\x89PNG\x00")
    with gzip.open(tmp_path / "d.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps({"text": "compressed"}))
    found = read(tmp_path)
    assert texts(found) == ["compressed", "in a folder"]
    assert [(item.source, item.reason) for item in found if isinstance(item, Dropped)] == [
        (str(tmp_path / "logo.png"), "file_type")
    ]


def test_read_files_matches_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "c.md").write_text("third")
    assert texts(read(tmp_path / "*.txt")) == ["first", "second"]
    monkeypatch.chdir(tmp_path)
    assert [item.source for item in read("?.md")] == ["c.md:1"]


def test_read_files_reads_texts_and_conversations_from_jsonl(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "one", "more": 1}, {"messages": ANSWERED})
    text, chat = read(path)
    assert isinstance(text, Document)
    assert (text.source, text.text) == (f"{path}:1", "one")
    assert isinstance(chat, Conversation)
    assert [turn.content for turn in chat.messages] == ["hi", "hello"]
    assert (chat.source, chat.document, chat.topic) == (f"{path}:2", chat.id, None)


def test_read_files_takes_the_configured_text_field(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"body": "one"})
    options = ReadOptions(licence="MIT", text_field="body", document_characters=100)
    assert texts(read(path, options=options)) == ["one"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{not json", "not_json"),
        (b"[" * 100_000, "not_json"),
        (b'{"text": "\xff"}', "not_utf8"),
        (b'["text"]', "not_an_object"),
        (b"{}", "no_text"),
        (b'{"text": 5}', "no_text"),
        (b'{"text": "\\ud800"}', "lone_surrogate"),
        (b'{"messages": []}', "no_messages"),
        (b'{"messages": "hi"}', "no_messages"),
        (b'{"messages": [{"role": "robot", "content": "hi"}]}', "bad_message"),
        (b'{"messages": [{"role": "user", "content": "hi"}]}', "no_answer"),
        (b'{"messages": [{"role": "assistant", "content": "\\udc00"}]}', "lone_surrogate"),
    ],
)
def test_read_files_reports_a_malformed_line_and_uses_the_rest(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n\n' + line + b'\n{"text": "two"}\n')
    found = read(path)
    assert texts(found) == ["one", "two"]
    assert [(item.id, item.step, item.reason) for item in found if isinstance(item, Dropped)] == [
        (f"{path}:3", "read", reason)
    ]


def test_read_files_logs_the_first_malformed_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "one"}, *[{}] * 5)
    with caplog.at_level(logging.WARNING):
        read(path)
    assert caplog.messages == [
        f"{path}: left out 5 malformed lines: line 2 (no_text), line 3 (no_text), line 4 (no_text)"
    ]


def test_read_files_refuses_a_file_without_a_usable_line(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"body": "one"}, {"body": "two"})
    with pytest.raises(
        DataError, match=r"none of its 2 lines can be used: line 1 \(no_text\)"
    ) as e:
        read(path)
    assert "Line 1 has body. Each must have 'text'" in str(e.value)


def test_read_files_names_a_missing_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.sources: .*gone.* does not exist"):
        read(tmp_path / "gone")


def test_read_files_refuses_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.sources: .* is a folder without files"):
        read(tmp_path)


def test_read_files_refuses_a_folder_without_supported_files(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"1")
    with pytest.raises(DataError, match=r"holds no supported file; supported: \.txt"):
        read(tmp_path)


def test_read_files_refuses_an_unsupported_file(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"1")
    with pytest.raises(DataError, match=r"a\.bin holds no supported file"):
        read(tmp_path / "a.bin")


def test_read_files_names_the_line_of_a_wrong_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("gut\ngrün\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.txt: line 2 is not UTF-8 \(byte 0xfc\)"):
        read(tmp_path / "a.txt")


def test_read_files_names_an_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.symlink_to("/proc/self/mem")  # opens for everybody, root included, and then fails to read
    with pytest.raises(DataError, match=r"a\.txt cannot be read"):
        read(path)


def test_read_files_reads_any_file_system_by_its_url(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/corpus/a.txt", b"in memory")
    memory.pipe("/corpus/sub/b.jsonl.gz", gzip.compress(b'{"text": "packed"}\n'))
    memory.pipe("/corpus/c.png", b"\x89PNG")
    found = read("memory://corpus")
    assert texts(found) == ["in memory", "packed"]
    assert found[0].source == "memory:///corpus/a.txt:1"
    assert texts(read("memory://corpus/*.txt")) == ["in memory"]
    (tmp_path / "d.txt").write_text("on disk")
    assert texts(read(f"file://{tmp_path}")) == ["on disk"]
    with pytest.raises(DataError, match="memory://gone does not exist"):
        read("memory://gone")
    with pytest.raises(DataError, match=r"nosuch://x cannot be opened \(Protocol not known"):
        read("nosuch://x")
    memory.rm("/corpus", recursive=True)


def test_a_source_has_fields_of_its_own(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.data", {"body": "one", "key": "k1"})
    source = SourceConfig(
        path=str(path), name="notes", format="jsonl", text_field="body", id_field="key",
        licence="CC0-1.0", language="en",
    )  # fmt: skip
    (found,) = find_inputs([source], OPTIONS)
    (item,) = read_input(found, seed=0)
    assert isinstance(item, Document)
    assert (item.id, item.licence, item.collection) == ("notes/k1", "CC0-1.0", "notes")
    assert (item.text, item.language) == ("one", "en")


def test_a_question_and_its_answer_may_have_keys_of_their_own(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"q": "2 + 2?", "a": "4", "text": "x"}, {"q": "3?", "a": 3})
    source = SourceConfig(path=str(path), prompt_field="q", completion_field="a")
    (found,) = find_inputs([source], OPTIONS)
    chat, dropped = read_input(found, seed=0)
    assert isinstance(chat, Conversation)
    assert [(turn.role, turn.content) for turn in chat.messages] == [
        ("user", "2 + 2?"), ("assistant", "4"),
    ]  # fmt: skip
    assert isinstance(dropped, Dropped)
    assert dropped.reason == "no_question_and_answer"
    with pytest.raises(ValueError, match="are given together"):
        SourceConfig(path="a", prompt_field="q")


def test_ids_do_not_depend_on_where_the_files_lie(tmp_path: Path) -> None:
    ids = []
    for name in ("here", "there/corpus"):
        folder = tmp_path / name / "docs"
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "a.txt").write_text("a text")
        jsonl(folder / "b.jsonl", {"text": "a line"})
        ids.append([item.id for item in read(folder)])
    assert ids[0] == ids[1]
    assert "docs/sub/a.txt#0" in ids[0]
