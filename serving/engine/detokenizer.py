"""Tokens become text as they arrive: whole characters only, and never any part of a stop text."""

import codecs

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from serving.engine.stop_matcher import StopMatcher
from serving.engine.vocabulary import Vocabulary


def token_bytes(tokenizer: Tokenizer, token_id: int) -> bytes:
    """The bytes that a token stands for. For many tokens, keep a Vocabulary and ask that."""
    return Vocabulary(tokenizer).bytes_of(token_id)


class Detokenizer:
    """The text of one completion.

    Text that could still grow into a stop is held back: with the stop "User:", the tokens "a Us"
    and "es" give "a ", then "Uses". Of several stops the one that is complete first ends the
    text, wherever the borders of the tokens lie.

    Args:
        vocabulary: of the model.
        stop: none of them empty.
        min_tokens: the text of so many tokens is given out as it is, stops or not.
        is_beginning: no text stands before the completion, as after a special token, so that a
            space which only belongs to the tokenizer's notation is dropped.

    Attributes:
        is_stopped: a stop was found; the text before it has been given out, the rest is dropped.
    """

    __slots__ = (
        "_decode",
        "_held",
        "_matcher",
        "_min_tokens",
        "_num_tokens",
        "is_stopped",
    )

    def __init__(
        self,
        vocabulary: Vocabulary,
        stop: tuple[str, ...] = (),
        *,
        min_tokens: int = 0,
        is_beginning: bool = False,
    ) -> None:
        if vocabulary.is_exact:
            self._decode = _ByteStream(vocabulary, is_beginning).add
        else:
            self._decode = _LibraryStream(vocabulary.tokenizer).add
        self._matcher = StopMatcher(stop) if stop else None
        self._min_tokens = min_tokens
        self._num_tokens = 0
        self._held = ""
        self.is_stopped = False

    def add(self, token_id: int) -> str:
        """Take the next token and give the text that is now certain."""
        text = self._decode(token_id)
        self._num_tokens += 1
        if self._matcher is None or not text or self._num_tokens <= self._min_tokens:
            return text
        found = self._matcher.find(text)
        held, self._held = self._held, ""
        if found is not None:
            self.is_stopped = True
            end, size = found
            return (held + text)[: len(held) + end - size]
        text = held + text
        certain = len(text) - self._matcher.num_pending
        self._held = text[certain:]
        return text[:certain]

    def flush(self) -> str:
        """Give the held text, at the end of a completion that no stop ended.

        Bytes of a character that never became whole are dropped.
        """
        text, self._held = self._held, ""
        return text


class _ByteStream:
    """Text of tokens whose bytes are the same wherever they stand.

    Bytes that are no UTF-8 become U+FFFD, as in Unicode's recommended practice.
    """

    def __init__(self, vocabulary: Vocabulary, is_beginning: bool) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._drops_space = is_beginning and vocabulary.drops_first_space

    def add(self, token_id: int) -> str:
        if self._vocabulary.is_special(token_id):
            return ""
        text = self._decoder.decode(self._vocabulary.bytes_of(token_id))
        if self._drops_space and text:
            self._drops_space = False
            return text.removeprefix(" ")
        return text


class _LibraryStream:
    """Text of any other tokenizer, as the tokenizers library gives it piece by piece."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def add(self, token_id: int) -> str:
        return self._stream.step(self._tokenizer, token_id) or ""
