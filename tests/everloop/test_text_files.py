"""What editors and languages do to a text file never becomes part of what is read from it."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
from datatrove.data import Document
from tokenizers import Tokenizer

from everloop.chat import ChatTemplate
from everloop.errors import ConfigError, DataError, EverloopError
from everloop.records import Message
from everloop.settings import RunFile
from everloop.text_files import read_text_file, read_text_lines
from tests.tiny_model import make_tiny_tokenizer
from training.cleaning.blocklist import BlocklistFilter
from training.export.tokenizer_files import read_chat_template
from training.pretrained import load_chat_tokenizer
from training.reading.jsonl import read_jsonl
from training.reading.options import ReadOptions
from training.reading.text import read_text
from training.tasks import read_tasks
from training.tokenizer import open_tokenizer

ROOT = Path(__file__).parents[2]
INSIDE = "before\u2028between\u0085after\x0bend"
OPTIONS = ReadOptions(licence="", text_field="text", document_characters=4000)


def from_windows(text: str) -> bytes:
    """As an editor of Windows saves it: with a byte order mark and its own ends of lines."""
    return b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode("utf-8")


def test_lines_end_at_a_newline_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(from_windows(f"{INSIDE}\n\nlast"))
    assert read_text_lines(path) == [INSIDE, "", "last"]
    assert read_text_file(path) == f"{INSIDE}\n\nlast"


def tasks(path: Path) -> object:
    return [task.prompt for task in read_tasks(path)]


def blocked(path: Path) -> object:
    words = BlocklistFilter(path)
    return [
        words.filter(Document(text=text, id="a")) is True
        for text in (INSIDE, "between alone", "a comment", "second")
    ]


def settings(path: Path) -> object:
    return RunFile.load(path).values


def jsonl(path: Path) -> object:
    return [item.text for item in read_jsonl(str(path), OPTIONS)]  # type: ignore[union-attr]


def text(path: Path) -> object:
    return [item.text for item in read_text(str(path), OPTIONS)]  # type: ignore[union-attr]


READERS: dict[str, tuple[Callable[[Path], object], str, object]] = {
    "tasks.jsonl": (
        tasks,
        f'{{"prompt": "{INSIDE.replace(chr(11), " ")}", "answer": "a"}}\n',
        [INSIDE.replace("\x0b", " ")],
    ),
    "words.txt": (blocked, f"# a comment\n{INSIDE}\nsecond\n", [False, True, True, False]),
    "run.toml": (
        settings,
        f'[export]\nname = "{INSIDE.replace(chr(11), " ").replace(chr(0x85), " ")}"\n',
        {"export": {"name": INSIDE.replace("\x0b", " ").replace("\x85", " ")}},
    ),
    "rows.jsonl": (
        jsonl,
        f'{{"text": "{INSIDE.replace(chr(11), " ")}"}}\n',
        [INSIDE.replace("\x0b", " ")],
    ),
    "corpus.txt": (text, f"{INSIDE}\n\nlast", [f"{INSIDE}\n\nlast"]),
}


@pytest.mark.parametrize("name", READERS)
def test_every_reader_takes_the_file_of_any_editor(tmp_path: Path, name: str) -> None:
    read, content, expected = READERS[name]
    path = tmp_path / name
    path.write_bytes(content.encode("utf-8"))
    assert read(path) == expected
    path.write_bytes(from_windows(content))
    assert read(path) == expected


@pytest.mark.parametrize("name", READERS)
def test_every_reader_refuses_another_encoding_in_a_sentence(tmp_path: Path, name: str) -> None:
    read, content, _ = READERS[name]
    path = tmp_path / name
    path.write_bytes(b"\xff\xfe" + content.encode("utf-16-le"))
    with pytest.raises(EverloopError, match=r"Convert the file to UTF-8|convert it|can be used"):
        read(path)


def test_chat_template_of_any_editor_writes_the_same_prompt(
    tmp_path: Path,
) -> None:
    make_tiny_tokenizer(tmp_path)
    messages = [Message(role="user", content="Hello")]
    plain = "{% for m in messages %}\n{{ m['content'] }}\u2028\n{% endfor %}\nend"
    (tmp_path / "chat_template.jinja").write_bytes(from_windows(plain))
    loaded = ChatTemplate.load(tmp_path)
    assert loaded is not None
    assert loaded.render(messages) == ChatTemplate(plain).render(messages)
    assert read_chat_template(tmp_path) == plain
    assert load_chat_tokenizer(tmp_path).chat_template == plain


def test_tokenizer_file_with_a_mark_is_read(tmp_path: Path) -> None:
    make_tiny_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    known = Tokenizer.from_file(str(path)).get_vocab()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert open_tokenizer(tmp_path).get_vocab() == known


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\ntwo \xe9\n", r"a\.txt: line 2 is not UTF-8 \(byte 0xe9\)"),
        ("one".encode("utf-16"), r"a\.txt: line 1 is not UTF-8 \(the file is UTF-16\)"),
    ],
)
def test_another_encoding_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_text_lines(tmp_path / "a.txt")
    with pytest.raises(ConfigError, match=r"words\.txt: no such"):
        RunFile.load(tmp_path / "words.txt")


def test_no_text_is_cut_where_python_sees_lines() -> None:
    """`str.splitlines` also cuts at U+2028, U+0085 and six other characters of ordinary texts."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in ("everloop", "training", "serving", "monitoring", "feedback")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "splitlines"
    ]
    assert found == []
