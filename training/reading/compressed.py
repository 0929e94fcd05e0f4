"""Files that may be compressed and may lie elsewhere, with one readable error for what is wrong.

A location is a path or any URL that fsspec knows, such as s3://bucket/file.jsonl.gz.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import BinaryIO, cast

import fsspec
import zstandard

from everloop.errors import DataError
from everloop.text_files import bare_lines
from training.reading.spans import Span

_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError)
_BLOCK_BYTES = 1 << 16

COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")


@contextmanager
def opened(location: str) -> Iterator[BinaryIO]:
    """Open a file to read its content; the suffix says how it is compressed.

    Raises:
        DataError: the file cannot be opened, is damaged or cut short.
    """
    try:
        with _raw(location) as raw, _decompressed(raw, PurePosixPath(location).suffix) as file:
            yield file
    except _DAMAGED as error:
        raise DataError(
            f"{location} is damaged or cut short ({error}). Copy or compress it again."
        ) from error
    except OSError as error:
        raise DataError(f"{location} cannot be read ({error.strerror or error}).") from error


def read_lines(location: str, span: Span | None = None) -> Iterator[bytes]:
    r"""Read a file line by line, each without its end of line.

    Args:
        span: part of an uncompressed file; the whole of it if absent.

    Raises:
        DataError: as `opened`, or the file is binary.
    """
    with opened(location) as file:
        first = 1 if span is None else span.first_line
        lines = bare_lines(file if span is None else _within(file, span), first)
        for number, line in enumerate(lines, start=first):
            if b"\0" in line:
                raise DataError(
                    f"{location}: line {number} holds a zero byte, so this is no UTF-8 text. "
                    "Remove the file or convert it."
                )
            yield line


def _within(file: BinaryIO, span: Span) -> Iterator[bytes]:
    left = span.end - span.start
    file.seek(span.start)
    for line in file:
        yield line
        left -= len(line)
        if left <= 0:
            return


def content_suffix(location: str) -> str:
    """The suffix that says what is inside: `.jsonl` for `a.jsonl.gz`, in small letters."""
    path = PurePosixPath(location)
    is_compressed = path.suffix.lower() in COMPRESSED_SUFFIXES
    return (PurePosixPath(path.stem) if is_compressed else path).suffix.lower()


class _ZstdFile(io.RawIOBase):
    """Decompress a .zst stream, frame by frame.

    zstandard's own reader takes a file that was cut short for a whole one.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decompressor = zstandard.ZstdDecompressor().decompressobj()
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            block = self._decompressor.unused_data or self._file.read(_BLOCK_BYTES)
            if not block:
                if not self._decompressor.eof:
                    raise EOFError("the last frame has no end")
                return 0
            if self._decompressor.eof:
                self._decompressor = zstandard.ZstdDecompressor().decompressobj()
            self._ready = self._decompressor.decompress(block)
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def _raw(location: str) -> BinaryIO:
    return cast(BinaryIO, fsspec.open(location, "rb").open())


def _decompressed(file: BinaryIO, suffix: str) -> BinaryIO:
    match suffix.lower():
        case ".gz":
            return cast(BinaryIO, gzip.GzipFile(fileobj=file))
        case ".bz2":
            return cast(BinaryIO, bz2.BZ2File(file))
        case ".xz":
            return cast(BinaryIO, lzma.LZMAFile(file))
        case ".zst":
            return cast(BinaryIO, io.BufferedReader(_ZstdFile(file)))
        case _:
            return file
