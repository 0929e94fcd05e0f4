import bz2
import gzip
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from everloop.errors import DataError
from training.reading.compressed import read_lines

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}
# Incompressible, so that half of the compressed file is half of the content.
LINES = [random.Random(seed).randbytes(100).hex().encode() for seed in range(2000)]


def write(folder: Path, suffix: str, content: bytes) -> Path:
    path = folder / f"a.txt{suffix}"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_read_lines_gives_the_lines(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, suffix, COMPRESSORS[suffix](b"\n".join(LINES)))
    assert list(read_lines(str(path))) == LINES


def test_read_lines_strips_byte_order_mark_and_ends_of_line(tmp_path: Path) -> None:
    path = write(tmp_path, "", b"\xef\xbb\xbfone\r\n\r\n two \n\xef\xbb\xbf")
    assert list(read_lines(str(path))) == [b"one", b"", b" two ", b"\xef\xbb\xbf"]


def test_read_lines_reads_all_frames_of_a_zstd_file(tmp_path: Path) -> None:
    path = write(tmp_path, ".zst", zstandard.compress(b"one\n") + zstandard.compress(b"two\n"))
    assert list(read_lines(str(path))) == [b"one", b"two"]


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESSORS if suffix])
def test_read_lines_refuses_a_file_cut_short(tmp_path: Path, suffix: str) -> None:
    content = COMPRESSORS[suffix](b"\n".join(LINES))
    path = write(tmp_path, suffix, content[: len(content) // 2])
    with pytest.raises(DataError, match=r"a\.txt\.\w+ is damaged or cut short"):
        list(read_lines(str(path)))


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESSORS if suffix])
def test_read_lines_refuses_a_file_that_is_not_compressed(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, suffix, b"plain text behind a wrong name, of some length\n" * 3)
    with pytest.raises(DataError, match=r"a\.txt\.\w+ (is damaged|cannot be read)"):
        list(read_lines(str(path)))


def test_read_lines_refuses_binary(tmp_path: Path) -> None:
    path = write(tmp_path, "", b"text\n\x89PNG\x00\x00")
    with pytest.raises(DataError, match="line 2 holds a zero byte"):
        list(read_lines(str(path)))


def test_read_lines_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.txt cannot be read \(No such file"):
        list(read_lines(str(tmp_path / "gone.txt")))


def test_read_lines_of_an_empty_file_are_none(tmp_path: Path) -> None:
    assert list(read_lines(str(write(tmp_path, "", b"")))) == []
