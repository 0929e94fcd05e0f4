"""Lines of a file that may be compressed, with one readable error for whatever is wrong with it."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from everloop.errors import DataError

_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError)
_UTF8_MARK = b"\xef\xbb\xbf"
_BLOCK_BYTES = 1 << 16

COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")


def read_lines(path: Path) -> Iterator[bytes]:
    r"""Read a file line by line, each without its end of line.

    The suffix says how it is compressed: .gz, .bz2, .xz, .zst or not at all.

    Raises:
        DataError: the file cannot be opened, is damaged or cut short, or is binary.
    """
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                if b"\0" in line:
                    raise DataError(
                        f"{path}: line {number} holds a zero byte, so this is no UTF-8 text. "
                        "Remove the file or convert it."
                    )
                yield (line.removeprefix(_UTF8_MARK) if number == 1 else line).rstrip(b"\r\n")
    except _DAMAGED as error:
        raise DataError(
            f"{path} is damaged or cut short ({error}). Copy or compress it again."
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error


class _ZstdFile(io.RawIOBase):
    """Decompress a .zst stream, frame by frame.

    zstandard's own reader takes a file that was cut short for a whole one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb")
        self._decompressor = zstandard.ZstdDecompressor().decompressobj()
        self._ready = b""

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

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


def _open(path: Path) -> BinaryIO:
    match path.suffix:
        case ".gz":
            return cast(BinaryIO, gzip.open(path, "rb"))
        case ".bz2":
            return cast(BinaryIO, bz2.open(path, "rb"))
        case ".xz":
            return cast(BinaryIO, lzma.open(path, "rb"))
        case ".zst":
            return cast(BinaryIO, io.BufferedReader(_ZstdFile(path)))
        case _:
            return path.open("rb")
