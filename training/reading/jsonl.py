"""JSON lines: one text or conversation per line."""

import json
from collections.abc import Iterator

from training.corpus import Item
from training.reading.compressed import read_lines
from training.reading.options import ReadOptions, make_dropped
from training.reading.rows import Row, read_rows
from training.reading.spans import Span


def read_jsonl(location: str, options: ReadOptions, span: Span | None = None) -> Iterator[Item]:
    """Read a file of JSON lines, or a part of it; empty lines are passed over.

    Raises:
        DataError: the file cannot be read, or no line of it can be used.
    """
    yield from read_rows(location, _rows(location, span), "line", options)


def _rows(location: str, span: Span | None) -> Iterator[tuple[int, Row]]:
    first = 1 if span is None else span.first_line
    for number, line in enumerate(read_lines(location, span), start=first):
        if line.strip():
            yield number, _parse(line, f"{location}:{number}")


def _parse(line: bytes, where: str) -> Row:
    shown = line.decode("utf-8", errors="replace")
    try:
        row = json.loads(line)
    except UnicodeDecodeError:
        return make_dropped(where, "not_utf8", shown)
    except (ValueError, RecursionError):
        return make_dropped(where, "not_json", shown)
    return row if isinstance(row, dict) else make_dropped(where, "not_an_object", shown)
