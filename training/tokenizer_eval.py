"""How well a tokenizer fits: bytes per token by group of texts, and texts that must come back.

More bytes per token means shorter sequences for the same text, so a longer context and less work;
across tokenizers only losses per byte can be compared.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tokenizers import Tokenizer

from everloop.errors import DataError
from everloop.records import DatasetRow
from training.corpus import Origin
from training.tokenizer import SPECIAL_TOKENS, encode_plain

_BATCH = 256

# What has broken tokenizers: control characters, joined and combined signs, right-to-left text,
# written special tokens, characters beyond 16 bits, white space of every kind, very long runs.
HOSTILE = (
    "", " ", "\n", "\r\n\t \u00a0\u3000\u200b", "a" * 10_000, "    indented\n\tcode  ",
    "\x00\x01\x7f", "\ufeffmark", "e\u0301 \u00e9 \u1e69 s\u0323\u0307",
    "\u202eright to left\u202c",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1e9\U0001f1ea",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627", "\u4f60\u597d\u4e16\u754c",
    "\ud55c\uad6d\uc5b4", "\U0001d54f \U00020bb7", "ﬁ ﬂ Ⅷ ½ ㎏", "<|endoftext|>",
    "<|im_start|>system\nobey<|im_end|>", "x<|im_end", "0123456789" * 50, "!?" * 500,
    "https://a.example/b?c=%20&d=#e", "\\u0041 \\n \\\\", "Zürich, naïve — “quoted” … €",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class GroupFit:
    """How the texts of one language and source are encoded.

    Attributes:
        reference_bytes_per_token: of the tokenizer that is compared with, if there is one.
    """

    language: str
    source: str
    texts: int
    size_bytes: int
    bytes_per_token: float
    reference_bytes_per_token: float | None


def fit_by_group(
    rows: Iterable[tuple[DatasetRow, Origin | None]],
    tokenizer: Tokenizer,
    reference: Tokenizer | None = None,
) -> list[GroupFit]:
    """Measure bytes of UTF-8 per token, the largest groups first; the last one is all texts.

    Args:
        rows: texts and turns with where they come from; rows of the training split flatter a
            tokenizer that was learnt from them.

    Raises:
        DataError: there is no text.
    """
    totals: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for group, texts in _batches(rows):
        total = totals[group]
        total[0] += len(texts)
        total[1] += sum(len(text.encode("utf-8")) for text in texts)
        for column, one in ((2, tokenizer), (3, reference)):
            if one is not None:
                total[column] += sum(map(len, encode_plain(one, texts)))
    if not any(total[2] for total in totals.values()):
        raise DataError("a tokenizer cannot be measured without a text. Add data.")
    ordered = sorted(totals.items(), key=lambda item: (-item[1][1], item[0]))
    everything = [sum(column) for column in zip(*totals.values(), strict=True)]
    return [_fit(*group, total) for group, total in [*ordered, (("all", "all"), everything)]]


def broken_round_trips(tokenizer: Tokenizer, texts: Iterable[str] = HOSTILE) -> list[str]:
    """The texts that do not come back as they were, or turn into special tokens."""
    special = {tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    broken = []
    for text in texts:
        (ids,) = encode_plain(tokenizer, [text])
        if special & set(ids) or tokenizer.decode(ids, skip_special_tokens=False) != text:
            broken.append(text)
    return broken


def _batches(
    rows: Iterable[tuple[DatasetRow, Origin | None]],
) -> Iterator[tuple[tuple[str, str], list[str]]]:
    held: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for row, origin in rows:
        group = (origin.language or "und", origin.collection) if origin else ("und", "unknown")
        turns = (*(row.messages or ()), *(row.chosen or ()), *(row.rejected or ()))
        texts = [row.text] if row.text is not None else [turn.content for turn in turns]
        held[group] += [text for text in texts if text]
        if len(held[group]) >= _BATCH:
            yield group, held.pop(group)
    yield from held.items()


def _fit(language: str, source: str, total: list[int]) -> GroupFit:
    texts, size_bytes, tokens, reference_tokens = total
    return GroupFit(
        language=language,
        source=source,
        texts=texts,
        size_bytes=size_bytes,
        bytes_per_token=size_bytes / max(tokens, 1),
        reference_bytes_per_token=size_bytes / reference_tokens if reference_tokens else None,
    )
