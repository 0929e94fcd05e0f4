r"""Text files that people write, read in one way, whatever editor has saved them as UTF-8.

Editors of Windows put a byte order mark at the beginning and `\r\n` at the end of lines; neither
is text. A line ends at `\n` alone: what Python's `str.splitlines` also takes for an end, such as
U+2028 and U+0085, stands inside the texts of people, and inside JSON.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from everloop.errors import DataError

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_text_file(path: Path) -> str:
    r"""Read a whole file, with `\n` at the end of its lines.

    Raises:
        DataError: it cannot be read, or is no UTF-8.
    """
    return "\n".join(read_text_lines(path))


def read_text_lines(path: Path) -> list[str]:
    """Read the lines of a file, without their ends; what follows the last end is a line too.

    Raises:
        DataError: it cannot be read, or is no UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    lines = enumerate(bare_lines(content.split(b"\n")), start=1)
    return [decode_line(line, number, str(path)) for number, line in lines]


def bare_lines(lines: Iterable[bytes], first: int = 1) -> Iterator[bytes]:
    """Lines without their ends, and the first of a file without a byte order mark.

    Args:
        lines: as they stand in the file.
        first: number of the first of them in it.
    """
    for number, line in enumerate(lines, start=first):
        yield (line.removeprefix(_UTF8_MARK) if number == 1 else line).rstrip(b"\r\n")


def decode_line(line: bytes, number: int, name: str) -> str:
    """Give the text of a line.

    Raises:
        DataError: it is no UTF-8.
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        is_utf16 = number == 1 and line.startswith(_UTF16_MARKS)
        found = "the file is UTF-16" if is_utf16 else f"byte 0x{line[error.start]:02x}"
        raise DataError(
            f"{name}: line {number} is not UTF-8 ({found}). Convert the file to UTF-8."
        ) from error
