"""Readers of the user's own files: .txt, .md and .jsonl, plain or compressed.

A text file becomes one document per stretch of whole paragraphs, so that a corpus in a single file
can be split; a line of .jsonl is one document (a text) or one conversation (`messages`). Files are
read line by line and never held in memory.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from everloop.errors import DataError
from everloop.records import Document, Message
from training.compressed import COMPRESSED_SUFFIXES, read_lines
from training.corpus import Conversation, Dropped, Item

logger = logging.getLogger(__name__)

_TEXT_SUFFIXES = (".txt", ".md")
_SUPPORTED = ".txt, .md and .jsonl, plain or with .gz, .zst, .bz2 or .xz behind"
_NAMED_LINES = 3  # malformed lines that the log names, per file


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What the files do not say themselves.

    Attributes:
        text_field: key of a .jsonl line that holds its text.
        document_characters: a text file is cut at the first blank line behind this many.
    """

    licence: str
    text_field: str
    document_characters: int


class _MalformedLineError(ValueError):
    """A line of .jsonl cannot be used; the message is a reason of the closed set."""


def read_files(sources: tuple[str, ...], options: ReadOptions) -> Iterator[Item]:
    """Read files, the files under folders, and the files that glob patterns match.

    What a folder holds of other types is yielded as dropped; so are malformed lines of .jsonl.

    Raises:
        DataError: a source is missing or without a supported file, or a file is no readable text.
    """
    for source in sources:
        for path in _find(source):
            suffix = _content_suffix(path)
            if suffix == ".jsonl":
                yield from _read_jsonl(path, options)
            elif suffix in _TEXT_SUFFIXES:
                yield from _read_text(path, options)
            else:
                yield _dropped(str(path), "file_type", "")


def _find(source: str) -> list[Path]:
    path = Path(source)
    if path.is_dir():
        found = sorted(
            file for file in path.rglob("*") if file.is_file() and not _hidden(file, path)
        )
    elif path.exists():
        found = [path]
    else:
        matches = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
        found = sorted(match for match in matches if match.is_file())
        if not found:
            raise DataError(f"data.sources: {source} does not exist and matches no file.")
    if not any(_is_supported(file) for file in found):
        raise DataError(f"data.sources: {source} holds no supported file; supported: {_SUPPORTED}.")
    return found


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _content_suffix(path: Path) -> str:
    """The suffix that says what is inside: `.jsonl` for `a.jsonl.gz`."""
    return Path(path.stem).suffix if path.suffix in COMPRESSED_SUFFIXES else path.suffix


def _is_supported(path: Path) -> bool:
    return _content_suffix(path) in (*_TEXT_SUFFIXES, ".jsonl")


def _read_text(path: Path, options: ReadOptions) -> Iterator[Item]:
    """Cut a text into documents at blank lines; without any, at twice the size."""
    size = options.document_characters
    stretches = _stretches(_pieces(_decoded_lines(path), size), size)
    for index, (first, text) in enumerate(stretches):
        if text.strip():
            yield _document(f"{path}#{index}", f"{path}:{first}", text, options)


def _decoded_lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(read_lines(path), start=1):
        try:
            yield number, line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: line {number} is not UTF-8 (byte 0x{line[error.start]:02x}). "
                "Convert the file to UTF-8."
            ) from error


def _pieces(lines: Iterator[tuple[int, str]], size: int) -> Iterator[tuple[int, str]]:
    for number, line in lines:
        for start in range(0, max(len(line), 1), size):
            yield number, line[start : start + size]


def _stretches(lines: Iterator[tuple[int, str]], size: int) -> Iterator[tuple[int, str]]:
    """Join lines to texts of about `size` characters, each with the number of its first line."""
    held: list[str] = []
    first = length = 0
    for number, line in lines:
        is_paragraph_end = not line.strip()
        if held and (length + len(line) > 2 * size or (length >= size and is_paragraph_end)):
            yield first, "\n".join(held)
            held, length = [], 0
        if not held:
            first = number
        held.append(line)
        length += len(line) + 1
    if held:
        yield first, "\n".join(held)


def _read_jsonl(path: Path, options: ReadOptions) -> Iterator[Item]:
    usable = 0
    malformed: list[str] = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            yield _parse(line, where, options)
            usable += 1
        except _MalformedLineError as error:
            malformed.append(f"line {number} ({error})" if len(malformed) < _NAMED_LINES else "")
            yield _dropped(where, str(error), line.decode("utf-8", errors="replace"))
    named = ", ".join(malformed[:_NAMED_LINES])
    if malformed and not usable:
        raise DataError(
            f"{path}: none of its {len(malformed)} lines can be used: {named}. Each line must be a "
            f"JSON object with {options.text_field!r} (text) or 'messages' (a conversation)."
        )
    if malformed:
        logger.warning("%s: left out %d malformed lines: %s", path, len(malformed), named)


def _parse(line: bytes, where: str, options: ReadOptions) -> Document | Conversation:
    try:
        row = json.loads(line)
    except UnicodeDecodeError as error:
        raise _MalformedLineError("not_utf8") from error
    except (ValueError, RecursionError) as error:
        raise _MalformedLineError("not_json") from error
    if not isinstance(row, dict):
        raise _MalformedLineError("not_an_object")
    if "messages" in row:
        return _conversation(row["messages"], where, options)
    text = row.get(options.text_field)
    if not isinstance(text, str):
        raise _MalformedLineError("no_text")
    if _has_lone_surrogate(text):
        raise _MalformedLineError("lone_surrogate")
    return _document(where, where, text, options)


def _conversation(turns: object, where: str, options: ReadOptions) -> Conversation:
    if not isinstance(turns, list) or not turns:
        raise _MalformedLineError("no_messages")
    try:
        messages = tuple(Message.model_validate(turn) for turn in turns)
    except ValidationError as error:
        raise _MalformedLineError("bad_message") from error
    if messages[-1].role != "assistant":
        raise _MalformedLineError("no_answer")
    if any(_has_lone_surrogate(message.content) for message in messages):
        raise _MalformedLineError("lone_surrogate")
    return Conversation(
        id=where, messages=messages, source=where, licence=options.licence, document=where
    )


def _document(identifier: str, source: str, text: str, options: ReadOptions) -> Document:
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return Document(id=identifier, text=text, source=source, licence=options.licence, sha256=digest)


def _dropped(where: str, reason: str, text: str) -> Dropped:
    return Dropped(id=where, source=where, step="read", reason=reason, text=text)


def _has_lone_surrogate(text: str) -> bool:
    """JSON may escape half of a character, which no encoding can write."""
    return any("\ud800" <= character <= "\udfff" for character in text)
