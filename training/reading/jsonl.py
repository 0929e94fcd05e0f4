"""JSON lines: one text or conversation per line."""

import json
from collections.abc import Iterator

from training.corpus import Item
from training.reading.compressed import read_lines
from training.reading.options import ReadOptions, make_dropped
from training.reading.rows import Row, read_rows


def read_jsonl(location: str, options: ReadOptions) -> Iterator[Item]:
    """Read a file of JSON lines; empty lines are passed over.

    Raises:
        DataError: the file cannot be read, or no line of it can be used.
    """
    yield from read_rows(location, _rows(location), "line", options)


def _rows(location: str) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(read_lines(location), start=1):
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
