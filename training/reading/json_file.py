"""JSON files: a list of texts or conversations, as instruction sets are often published.

Values that stand one after the other, such as JSON lines under this suffix, are read too. A file
of a single object that is neither text nor conversation, such as a program's settings, is dropped
and not refused: folders are full of them.
"""

import io
import json
import re
from collections.abc import Iterator
from itertools import chain, islice
from typing import TextIO

from everloop.errors import DataError
from training.corpus import Dropped, Item
from training.reading.compressed import opened
from training.reading.options import ReadOptions, make_dropped
from training.reading.rows import Row, make_item, read_rows

_SPACE = re.compile(r"[ \t\r\n]*")
_SEPARATORS = re.compile(r"[ \t\r\n,]*")
_BLOCK_CHARACTERS = 1 << 20
_MAX_VALUE_CHARACTERS = 1 << 28  # of one value; a longer one is no text of a corpus


def read_json(location: str, options: ReadOptions) -> Iterator[Item]:
    """Read the elements of a list, or all values of a file, without holding the file.

    Raises:
        DataError: the file is no UTF-8 JSON, or has several values of which none can be used.
    """
    with opened(location) as file:
        reader = _JsonReader(io.TextIOWrapper(file, encoding="utf-8-sig"), location)
        try:
            rows = (
                (number, _row(value, f"{location}:{number}"))
                for number, value in enumerate(reader.values(), start=1)
            )
            first = list(islice(rows, 2))
            if len(first) == 1 and not reader.is_list:
                row = first[0][1]
                yield row if isinstance(row, Dropped) else make_item(row, location, options)
            else:
                yield from read_rows(location, chain(first, rows), "record", options)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{location} is not UTF-8 (byte 0x{error.object[error.start]:02x}). Convert the "
                "file to UTF-8."
            ) from error


def _row(value: object, where: str) -> Row:
    if isinstance(value, dict):
        return value
    return make_dropped(where, "not_an_object", json.dumps(value, ensure_ascii=False)[:2000])


class _JsonReader:
    """Reads value after value from blocks of a text."""

    def __init__(self, file: TextIO, location: str) -> None:
        self._file = file
        self._location = location
        self._text = ""
        self._at = 0
        self._decoder = json.JSONDecoder()
        self.is_list = False

    def values(self) -> Iterator[object]:
        """The values of the file, or those of its list."""
        self.is_list = self._skip(_SPACE) == "["
        self._at += self.is_list
        count = 0
        while (sign := self._skip(_SEPARATORS)) and not (self.is_list and sign == "]"):
            count += 1
            yield self._value(count)
        if self.is_list and not sign:
            raise DataError(
                f"{self._location} ends within its list: it is cut short. Copy it again."
            )

    def _skip(self, signs: re.Pattern[str]) -> str:
        """Pass over what matches; the sign behind it, or nothing at the end."""
        while True:
            match = signs.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text) or not self._read_on(_BLOCK_CHARACTERS):
                return self._text[self._at : self._at + 1]

    def _value(self, number: int) -> object:
        size = _BLOCK_CHARACTERS
        while True:
            try:
                value, self._at = self._decoder.raw_decode(self._text, self._at)
                return value
            except (ValueError, RecursionError) as error:
                is_too_long = len(self._text) - self._at > _MAX_VALUE_CHARACTERS
                if is_too_long or not self._read_on(size):
                    raise DataError(
                        f"{self._location}: record {number} is no JSON ({error}). Repair the file, "
                        "or name its format in [[data.source]]."
                    ) from error
                size *= 2  # a long value is parsed from its beginning after every block

    def _read_on(self, size: int) -> bool:
        """Forget what is done and read another block; False at the end of the file."""
        more = self._file.read(size)
        self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)
