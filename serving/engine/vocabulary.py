"""The bytes of every token, so that text, logprobs and grammars agree on what a token says.

Two kinds of tokenizers give a token the same bytes wherever it stands: byte-level ones (GPT-2,
Qwen, Llama 3) and those of SentencePiece's making (Llama 2, Mistral, Gemma), which write a space as
a mark and a byte that is part of no token as <0x..>. For any other kind the bytes are those of the
token decoded alone.
"""

import json
import re
from typing import Any

from tokenizers import Tokenizer

_BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")


class Vocabulary:
    """What the tokens of a tokenizer say. Cheap to make; keeps what it was asked for.

    Attributes:
        tokenizer: the tokenizer.
        is_exact: the text of tokens is the text of their bytes, one after the other.
        drops_first_space: a space at the very beginning of a text belongs to the tokenizer's
            notation and not to the text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._bytes: dict[int, bytes] = {}
        added = tokenizer.get_added_tokens_decoder()
        self._added = {token_id: token.content for token_id, token in added.items()}
        self._special = frozenset(token_id for token_id, token in added.items() if token.special)
        steps = _steps(tokenizer.decoder)
        kinds = [step["type"] for step in steps]
        self._spaces = [step for step in steps if step["type"] in ("Replace", "Metaspace")]
        self._is_byte_level = kinds == ["ByteLevel"]
        self._has_byte_tokens = "ByteFallback" in kinds
        self.is_exact = self._is_byte_level or _is_sentence_piece(steps)
        self.drops_first_space = self.is_exact and any(map(_drops_first_space, steps))

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes that a token stands for; those of its name for a special token."""
        found = self._bytes.get(token_id)
        if found is None:
            found = self._bytes[token_id] = self._find(token_id)
        return found

    def is_special(self, token_id: int) -> bool:
        """Whether a token marks structure and has no text."""
        return token_id in self._special

    def _find(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self.tokenizer.id_to_token(token_id)
        if token is None:  # a row of padding in the model's table
            return b""
        if self._is_byte_level:
            return _from_byte_level(token)
        if not self.is_exact:
            return self.tokenizer.decode([token_id], skip_special_tokens=False).encode()
        if self._has_byte_tokens and _BYTE_TOKEN.fullmatch(token):
            return bytes.fromhex(token[3:5])
        for step in self._spaces:
            mark = step["replacement"] if "replacement" in step else step["pattern"]["String"]
            token = token.replace(mark, step.get("content", " "))
        return token.encode()


def _steps(decoder: Any) -> list[dict[str, Any]]:
    """A decoder's parts, by the form they have in tokenizer.json."""
    if decoder is None:
        return []
    state = json.loads(decoder.__getstate__())
    steps: list[dict[str, Any]] = state["decoders"] if state["type"] == "Sequence" else [state]
    return steps


def _is_sentence_piece(steps: list[dict[str, Any]]) -> bool:
    """Whether tokens keep their text wherever they stand, but for a space at the beginning."""
    kinds = [step["type"] for step in steps]
    if not kinds or not set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        return False
    is_fused = False
    for step in steps:
        is_fused = is_fused or step["type"] == "Fuse"
        if step["type"] == "Replace" and ("String" not in step["pattern"] or is_fused):
            return False
        if step["type"] == "Strip" and (not is_fused or step["content"] != " " or step["stop"]):
            return False
    return "Metaspace" in kinds or "Replace" in kinds


def _drops_first_space(step: dict[str, Any]) -> bool:
    if step["type"] == "Strip":
        return bool(step["start"])
    return step["type"] == "Metaspace" and bool(step.get("prepend_scheme") != "never")


def _byte_level_alphabet() -> dict[int, str]:
    """For str.translate: the character that a byte-level tokenizer writes, to that of its byte.

    Source: bytes_to_unicode of GPT-2: printable bytes stand for themselves, the others for the
    characters from 256 on.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    unused = dict.fromkeys(others, "\uffff")  # no byte: they are not written as themselves
    return unused | {256 + place: chr(byte) for place, byte in enumerate(others)}


_ALPHABET = _byte_level_alphabet()


def _from_byte_level(token: str) -> bytes:
    try:
        return token.translate(_ALPHABET).encode("latin-1")
    except UnicodeEncodeError:  # not written in the alphabet: its own text, as the library has it
        return token.encode()
