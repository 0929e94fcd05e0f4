from pathlib import Path

import pytest

from everloop.errors import DataError
from everloop.records import DatasetRow, Message
from training.corpus import Origin
from training.tokenizer import encode_plain, load_tokenizer
from training.tokenizer_eval import HOSTILE, broken_round_trips, fit_by_group


def row(text: str | None, answer: str = "") -> DatasetRow:
    turns = (Message(role="assistant", content=answer),) if text is None else None
    return DatasetRow(id="a", split="validation", sources=(), text=text, messages=turns)


def origin(language: str | None, collection: str) -> Origin:
    return Origin(
        row="a", document="d", source="s", licence="MIT", sha256="", collection=collection,
        language=language,
    )  # fmt: skip


def test_fit_counts_bytes_of_utf8_by_language_and_source(tiny_tokenizer: Path) -> None:
    tokenizer = load_tokenizer(tiny_tokenizer)
    rows = [
        (row("\u65e5\u672c"), origin("ja", "web")),
        (row(None, "documentation"), origin("en", "docs")),
        (row(" documentation"), origin("en", "docs")),
        (row("?"), None),
    ]
    english, japanese, unknown, everything = fit_by_group(rows, tokenizer)
    assert (english.language, english.source, english.texts) == ("en", "docs", 2)
    assert english.size_bytes == 27
    assert english.bytes_per_token > 3.0
    assert english.reference_bytes_per_token is None
    assert (japanese.size_bytes, japanese.bytes_per_token) == (6, 1.0)  # one token per byte
    assert (unknown.language, unknown.source) == ("und", "unknown")
    assert (everything.source, everything.texts, everything.size_bytes) == ("all", 4, 34)


def test_fit_compares_with_a_reference(tiny_tokenizer: Path) -> None:
    tokenizer = load_tokenizer(tiny_tokenizer)
    (group, _) = fit_by_group([(row("the fox"), None)], tokenizer, tokenizer)
    assert group.reference_bytes_per_token == group.bytes_per_token


def test_fit_refuses_no_text(tiny_tokenizer: Path) -> None:
    with pytest.raises(DataError, match="without a text"):
        fit_by_group([(row(""), None)], load_tokenizer(tiny_tokenizer))


def test_hostile_texts_come_back_whole(tiny_tokenizer: Path) -> None:
    assert broken_round_trips(load_tokenizer(tiny_tokenizer)) == []
    assert len(set(HOSTILE)) == len(HOSTILE) >= 20


def test_broken_round_trips_finds_a_tokenizer_that_changes_text(tiny_tokenizer: Path) -> None:
    from tokenizers import normalizers

    tokenizer = load_tokenizer(tiny_tokenizer)
    tokenizer.normalizer = normalizers.Lowercase()
    assert broken_round_trips(tokenizer, ["lower", "Upper"]) == ["Upper"]
    assert encode_plain(tokenizer, ["A"]) == encode_plain(tokenizer, ["a"])
