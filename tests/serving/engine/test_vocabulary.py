"""The bytes of tokens, for every way in which tokenizers write them."""

import pytest
from tokenizers import Tokenizer, decoders, models

from serving.engine.vocabulary import Vocabulary
from tests.serving.engine.conftest import byte_tokenizer

REPLACE, FALLBACK, FUSE = decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()


def _vocabulary(decoder: decoders.Decoder | None, *tokens: str) -> Vocabulary:
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    if decoder is not None:
        tokenizer.decoder = decoder
    return Vocabulary(tokenizer)


def test_byte_level_tokens_are_written_in_their_alphabet() -> None:
    vocabulary = Vocabulary(byte_tokenizer())
    every = {vocabulary.bytes_of(token_id) for token_id in range(1, 257)}
    assert every == {bytes([byte]) for byte in range(256)}
    assert vocabulary.is_exact
    assert not vocabulary.drops_first_space


def test_added_tokens_of_a_byte_level_tokenizer_are_plain_text() -> None:
    vocabulary = Vocabulary(byte_tokenizer("é b"))
    assert vocabulary.bytes_of(257) == "é b".encode()
    assert not vocabulary.is_special(257)
    assert vocabulary.is_special(0)


@pytest.mark.parametrize(
    ("decoder", "drops_first_space"),
    [
        (decoders.Sequence([REPLACE, FALLBACK, FUSE, decoders.Strip(" ", 1, 0)]), True),
        (decoders.Sequence([REPLACE, FALLBACK, FUSE]), False),
        (decoders.Sequence([FALLBACK, decoders.Metaspace()]), True),
        (decoders.Sequence([FALLBACK, decoders.Metaspace(prepend_scheme="never")]), False),
    ],
)
def test_sentence_piece_tokens(decoder: decoders.Decoder, drops_first_space: bool) -> None:
    vocabulary = _vocabulary(decoder, "▁a▁b", "<0xE2>", "<0xZZ>", "é")
    assert vocabulary.is_exact
    assert vocabulary.drops_first_space == drops_first_space
    assert [vocabulary.bytes_of(i) for i in range(4)] == [b" a b", b"\xe2", b"<0xZZ>", "é".encode()]


def test_byte_tokens_of_a_tokenizer_without_byte_fallback_are_text() -> None:
    assert _vocabulary(decoders.Metaspace(), "<0x41>").bytes_of(0) == b"<0x41>"


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        decoders.WordPiece(),
        decoders.BPEDecoder(),
        decoders.Sequence([FUSE, REPLACE]),
        decoders.Sequence([REPLACE, decoders.Strip(" ", 1, 0), FUSE]),
        decoders.Sequence([REPLACE, FUSE, decoders.Strip(" ", 1, 1)]),
    ],
)
def test_tokens_of_other_kinds_have_the_bytes_that_they_decode_to_alone(
    decoder: decoders.Decoder | None,
) -> None:
    vocabulary = _vocabulary(decoder, "play")
    assert not vocabulary.is_exact
    assert vocabulary.bytes_of(0) == b"play"


def test_a_token_that_the_tokenizer_lacks_has_no_bytes() -> None:
    assert Vocabulary(byte_tokenizer()).bytes_of(300) == b""
