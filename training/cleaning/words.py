"""The word splitter of the cleaning rules: a regular expression in place of spaCy.

datatrove's rules split by spaCy, which costs more time than all of its rules together; any splitter
can be handed to them in place of a language's name. Languages that write without spaces need
datatrove's own splitters.
"""

import re
from itertools import pairwise

from datatrove.utils.word_tokenizers import WordTokenizer

_WORD = re.compile(r"\w+(?:[.'\u2019]\w+)*|[^\w\s]+")
_SENTENCE_END = re.compile(r"[.!?\u3002\uff01\uff1f][\"')\]\u00bb\u201d]*(?=\s)")


class RegexWords(WordTokenizer):
    """Words with their inner dots and apostrophes, and runs of other signs.

    `"It's os.path..."` is `["It's", "os.path", "..."]`.
    """

    def word_tokenize(self, text: str) -> list[str]:
        """Split into words and signs."""
        return _WORD.findall(text)

    def sent_tokenize(self, text: str) -> list[str]:
        """Split behind the signs that end a sentence."""
        return [text[start:end].strip() for start, end in self.span_tokenize(text)]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Begin and end of every sentence; together they are the whole text."""
        ends = [match.end() for match in _SENTENCE_END.finditer(text)]
        borders = [0, *ends, len(text)]
        return [(start, end) for start, end in pairwise(borders) if text[start:end].strip()]
