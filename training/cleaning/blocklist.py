"""Texts and conversations with words of the user's own list."""

import re
from pathlib import Path

from datatrove.pipeline.filters import C4BadWordsFilter
from datatrove.pipeline.writers.disk_base import DiskWriter

from everloop.errors import ConfigError, DataError
from everloop.text_files import read_text_lines


class BlocklistFilter(C4BadWordsFilter):
    """C4's rule with a list from a file; C4's own list is fetched from the network.

    A word matches as a whole, in upper and lower case; lines that start with # are comments.

    Raises:
        ConfigError: the file is missing, no UTF-8 text or without a word.
    """

    name = "blocklist"

    def __init__(self, file: Path, exclusion_writer: DiskWriter | None = None) -> None:
        super().__init__(exclusion_writer=exclusion_writer)
        self._words = _pattern(file)

    def _get_badwords(self, lang: str) -> re.Pattern[str]:  # noqa: ARG002 - one list for all
        return self._words


def _pattern(file: Path) -> re.Pattern[str]:
    try:
        lines = read_text_lines(file)
    except DataError as error:
        raise ConfigError(f"data.blocklist.file: {error}") from error
    words = {line.strip().lower() for line in lines if line.strip() and line[0] != "#"}
    if not words:
        raise ConfigError(f"data.blocklist.file: {file} holds no word. Leave it out instead.")
    longest_first = sorted(words, key=lambda word: (-len(word), word))
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")
