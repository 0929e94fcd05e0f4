"""Windows of text for a checkpoint that brings no validation data: its own tokens of given texts.

Every window begins as a prompt does: with the token that the tokenizer puts before a text, if any.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from everloop.errors import DataError

MAX_CONTEXT = 256  # tokens; longer windows cost time and change the comparison little
_PROMPT_TOKENS = 24
_PROMPTS = 4
_WINDOWS_PER_TEXT = 2  # of a long text, so that several are heard


class TooShortError(DataError):
    """No text is long enough for one window."""


@dataclass(frozen=True, slots=True)
class TextWindows:
    """What an export measures losses on.

    Attributes:
        tokens: [N, context + 1].
        bytes_per_token: UTF-8 bytes of the text per token.
        prompts: beginnings of passages, for golden continuations.
        name: of the text, for people.
    """

    tokens: NDArray[np.int64]
    bytes_per_token: float
    prompts: tuple[str, ...] = ()
    name: str = ""

    def joined(self, other: "TextWindows") -> "TextWindows":
        """These windows, and then others of the same tokenizer and width."""
        counts = len(self.tokens), len(other.tokens)
        sizes = self.bytes_per_token, other.bytes_per_token
        return TextWindows(
            tokens=np.concatenate([self.tokens, other.tokens]),
            bytes_per_token=float(np.average(sizes, weights=counts)),
            prompts=self.prompts,
            name=f"{self.name} and {other.name}",
        )


class _Window(NamedTuple):
    tokens: list[int]
    size_bytes: int  # of its text


def cut_windows(
    texts: Iterable[str], tokenizer: Tokenizer, *, context: int, limit: int
) -> TextWindows:
    """Cut texts into windows, first a few of each text, until there are enough.

    Args:
        texts: read no further than needed.
        tokenizer: of the checkpoint.
        context: tokens that a window predicts.
        limit: windows that are enough.

    Raises:
        TooShortError: no text is long enough for one window.
    """
    start = _start(tokenizer)
    width = context + 1 - len(start)
    first: list[_Window] = []
    further: list[_Window] = []  # of long texts, in case there are few
    for text in texts:
        windows = list(islice(_windows(text, tokenizer, width), limit))
        first += windows[:_WINDOWS_PER_TEXT]
        further = [*further, *windows[_WINDOWS_PER_TEXT:]][:limit]
        if len(first) >= limit:
            break
    chosen = [*first, *further][:limit]
    if not chosen:
        raise TooShortError(f"no text has the {width:,} tokens of one window.")
    return TextWindows(
        tokens=np.array([start + window.tokens for window in chosen], np.int64),
        bytes_per_token=sum(window.size_bytes for window in chosen) / (len(chosen) * width),
        prompts=_prompts([window.tokens for window in chosen], tokenizer),
    )


def _windows(text: str, tokenizer: Tokenizer, width: int) -> Iterator[_Window]:
    encoding = tokenizer.encode(text, add_special_tokens=False)
    ids, offsets = encoding.ids, encoding.offsets  # each access makes a list of all
    for first in range(0, len(ids) - width + 1, width):
        last = first + width - 1
        passage = text[offsets[first][0] : offsets[last][1]]
        yield _Window(ids[first : last + 1], len(passage.encode("utf-8")))


def _start(tokenizer: Tokenizer) -> list[int]:
    """What the tokenizer puts before a text."""
    whole, plain = (tokenizer.encode("a", add_special_tokens=added).ids for added in (True, False))
    places = (at for at in range(len(whole)) if whole[at : at + len(plain)] == plain)
    return list(whole[: next(places, 0)])


def _prompts(windows: list[list[int]], tokenizer: Tokenizer) -> tuple[str, ...]:
    """Passages from all over the windows."""
    tokens = [token for window in windows for token in window]
    step = len(tokens) // _PROMPTS
    starts = (step * number for number in range(_PROMPTS))
    return tuple(tokenizer.decode(tokens[start : start + _PROMPT_TOKENS]) for start in starts)
