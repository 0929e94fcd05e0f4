"""A tokenizer as a grammar needs it: the bytes of every token, and exact tokens of a text.

Where a grammar leaves no choice it asks for the tokens of the text that must come. Tokenizers of
SentencePiece's making put a space before every text, which would not be part of the answer.
"""

import json
from typing import Any

from tokenizers import Tokenizer

from serving.engine.vocabulary import Vocabulary


class GrammarTokens:
    """The tokens of a model, and a call that makes tokens of a text.

    Args:
        vocabulary: of the model's tokenizer.
        vocab_size: of the model; what the tokenizer lacks has no bytes and is never allowed.
        eos_token_ids: of the model; special whatever the tokenizer says.

    Attributes:
        tokens: the bytes of each.
        special_token_ids: of those that have no text.
        eos_token_id: the first end token; None for a model without.
    """

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, vocab_size: int, eos_token_ids: list[int]) -> None:
        self._tokenizer = _exact_tokenizer(vocabulary.tokenizer)
        self.tokens = [vocabulary.bytes_of(token_id) for token_id in range(vocab_size)]
        self.special_token_ids = [
            token_id
            for token_id in range(vocab_size)
            if vocabulary.is_special(token_id) or token_id in eos_token_ids
        ]
        # Without one the grammar's library adds one of its own, behind the others.
        self.eos_token_id = eos_token_ids[0] if eos_token_ids else None

    def __call__(self, text: str) -> list[int]:
        """Write a text as the model would, wherever it stands."""
        token_ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return token_ids


def _exact_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer, but its tokens say the whole text and no space before it."""
    changes = {
        "normalizer": _without_prefix(_state(tokenizer.normalizer)),
        "pre_tokenizer": _without_prefix(_state(tokenizer.pre_tokenizer)),
        "truncation": None,
        "padding": None,
    }
    if changes == {
        "normalizer": _state(tokenizer.normalizer),
        "pre_tokenizer": _state(tokenizer.pre_tokenizer),
        "truncation": tokenizer.truncation,
        "padding": tokenizer.padding,
    }:
        return tokenizer  # a copy of a large one takes half a second
    return Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str()) | changes))


def _state(part: Any) -> dict[str, Any] | None:
    """A part of a tokenizer in the form that it has in tokenizer.json."""
    if part is None:
        return None
    state: dict[str, Any] = json.loads(part.__getstate__())
    return state


def _without_prefix(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """A normalizer or pre-tokenizer that puts nothing before the text."""
    if part is None or part["type"] == "Prepend":
        return None
    if part["type"] == "Metaspace":
        return part | {"prepend_scheme": "never"}
    if part["type"] == "ByteLevel":
        return part | {"add_prefix_space": False}
    if part["type"] == "Sequence":
        name = "normalizers" if "normalizers" in part else "pretokenizers"
        parts = [_without_prefix(one) for one in part[name]]
        return part | {name: [one for one in parts if one is not None]}
    return part
