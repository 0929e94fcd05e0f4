"""Tokens become text as they arrive: whole characters only, and never any part of a stop text."""

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class Detokenizer:
    """The text of one completion.

    Text that could still grow into a stop is held back: with the stop "User:", the tokens "a Us"
    and "es" give "a ", then "Uses".

    Attributes:
        is_stopped: a stop was found; the text before it has been given out, the rest is dropped.
    """

    __slots__ = ("_held", "_stop", "_stream", "_tokenizer", "is_stopped")

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...] = ()) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._stop = stop
        self._held = ""
        self.is_stopped = False

    def add(self, token_id: int) -> str:
        """Take the next token and give the text that is now certain."""
        text: str = self._stream.step(self._tokenizer, token_id) or ""
        if not self._stop or not text:
            return text
        text = self._held + text
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.is_stopped = True
            self._held = ""
            return text[: min(found)]
        certain = len(text) - _overlap(text, self._stop)
        self._held = text[certain:]
        return text[:certain]

    def flush(self) -> str:
        """Give the held text, at the end of a completion that no stop ended.

        Bytes of a character that never became whole are dropped.
        """
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: tuple[str, ...]) -> int:
    """Length of the longest end of the text with which a stop begins."""
    for size in range(min(len(text), max(map(len, stop)) - 1), 0, -1):
        end = text[-size:]
        if any(one.startswith(end) for one in stop):
            return size
    return 0
