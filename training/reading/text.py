"""Plain texts and Markdown: one document per stretch of whole paragraphs.

So a corpus in a single file can be split; files are read line by line and never held in memory.
"""

from collections.abc import Iterable, Iterator

from everloop.text_files import decode_line
from training.corpus import Item
from training.reading.compressed import read_lines
from training.reading.options import ReadOptions, make_document


def read_text(location: str, options: ReadOptions) -> Iterator[Item]:
    """Cut a text into documents at blank lines; without any, at twice the size.

    Raises:
        DataError: the file is no UTF-8 text.
    """
    yield from cut_text(_decoded_lines(location), location, options)


def cut_text(
    lines: Iterable[tuple[int, str]], location: str, options: ReadOptions
) -> Iterator[Item]:
    """Make documents of numbered lines."""
    size = options.document_characters
    for index, (first, text) in enumerate(_stretches(_pieces(lines, size), size)):
        if text.strip():
            yield make_document(f"{options.name}#{index}", f"{location}:{first}", text, options)


def _decoded_lines(location: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(read_lines(location), start=1):
        yield number, decode_line(line, number, location)


def _pieces(lines: Iterable[tuple[int, str]], size: int) -> Iterator[tuple[int, str]]:
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
