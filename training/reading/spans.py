"""Parts of a large file of lines, so that several tasks read it and each can be done by itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from everloop.errors import DataError

_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Span:
    """Whole lines of a file.

    Attributes:
        start, end: bytes from the beginning of the file.
        first_line: number of the line at `start`, from 1.
    """

    start: int
    end: int
    first_line: int


def split_lines(path: Path, span_bytes: float) -> list[Span]:
    """Divide a file at ends of lines into parts of about `span_bytes`; one pass over the file.

    Raises:
        DataError: the file cannot be read.
    """
    spans: list[Span] = []
    start, first_line, line = 0, 1, 1
    try:
        with path.open("rb") as file:
            for position, block in _blocks(file):
                at = 0
                while (end := block.find(b"\n", at)) >= 0:
                    # Counting line by line is slow; where no border is near, the block is counted.
                    if position + len(block) < start + span_bytes:
                        line += block.count(b"\n", at)
                        break
                    line += 1
                    at = end + 1
                    if position + at - start >= span_bytes:
                        spans.append(Span(start, position + at, first_line))
                        start, first_line = position + at, line
            size = file.tell()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    return [*spans, Span(start, size, first_line)] if size > start else spans


def _blocks(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    position = 0
    while block := file.read(_BLOCK_BYTES):
        yield position, block
        position += len(block)
