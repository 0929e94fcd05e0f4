import random
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models

from serving.engine.detokenizer import Detokenizer, token_bytes
from serving.engine.vocabulary import Vocabulary
from tests.serving.engine.conftest import byte_tokenizer


def _feed(
    tokenizer: Tokenizer, token_ids: list[int], *stop: str, **settings: Any
) -> tuple[list[str], Detokenizer]:
    detokenizer = Detokenizer(Vocabulary(tokenizer), stop, **settings)
    texts = []
    for token_id in token_ids:
        texts.append(detokenizer.add(token_id))
        if detokenizer.is_stopped:
            return texts, detokenizer
    return [*texts, detokenizer.flush()], detokenizer


def _tokens(tokenizer: Tokenizer, *pieces: str) -> list[int]:
    return [tokenizer.token_to_id(piece) for piece in pieces]


def test_add_gives_text_token_by_token() -> None:
    tokenizer = byte_tokenizer()
    assert _feed(tokenizer, tokenizer.encode("abc").ids)[0] == ["a", "b", "c", ""]


def test_add_gives_a_multi_byte_character_whole() -> None:
    tokenizer = byte_tokenizer()
    texts, _ = _feed(tokenizer, tokenizer.encode("é🙂!").ids)
    assert texts == ["", "é", "", "", "", "🙂", "!", ""]


def test_add_skips_special_tokens() -> None:
    tokenizer = byte_tokenizer()
    assert "".join(_feed(tokenizer, [0, *tokenizer.encode("a").ids, 0])[0]) == "a"


def test_flush_drops_a_character_that_never_became_whole() -> None:
    tokenizer = byte_tokenizer()
    assert "".join(_feed(tokenizer, tokenizer.encode("a🙂").ids[:-1])[0]) == "a"


def test_stop_across_token_borders_ends_the_text_before_it() -> None:
    tokenizer = byte_tokenizer("a Us", "er", ": b")
    texts, detokenizer = _feed(tokenizer, _tokens(tokenizer, "a Us", "er", ": b"), "User:")
    assert texts == ["a ", "", ""]
    assert detokenizer.is_stopped


def test_stop_is_held_back_until_it_cannot_come() -> None:
    tokenizer = byte_tokenizer("a Us", "es", "es!")
    texts, detokenizer = _feed(tokenizer, _tokens(tokenizer, "a Us", "es", "es!"), "User:")
    assert texts == ["a ", "Uses", "es!", ""]
    assert not detokenizer.is_stopped


def test_stop_drops_what_follows_in_the_same_token() -> None:
    tokenizer = byte_tokenizer("one.two")
    assert _feed(tokenizer, _tokens(tokenizer, "one.two"), ".")[0] == ["one"]


def test_earliest_of_several_stops_wins() -> None:
    tokenizer = byte_tokenizer("a;b.c")
    assert _feed(tokenizer, _tokens(tokenizer, "a;b.c"), ".", ";")[0] == ["a"]


def test_stop_that_overlaps_itself_is_found() -> None:
    tokenizer = byte_tokenizer()
    texts, detokenizer = _feed(tokenizer, tokenizer.encode("aaab").ids, "aab")
    assert ("".join(texts), detokenizer.is_stopped) == ("a", True)


def test_stop_of_a_multi_byte_character_is_found() -> None:
    tokenizer = byte_tokenizer()
    texts, detokenizer = _feed(tokenizer, tokenizer.encode("né🙂x").ids, "🙂")
    assert ("".join(texts), detokenizer.is_stopped) == ("né", True)


def test_flush_gives_what_was_held_for_a_stop_that_did_not_come() -> None:
    tokenizer = byte_tokenizer()
    texts, _ = _feed(tokenizer, tokenizer.encode("ab\n").ids, "\n\n")
    assert texts == ["a", "b", "", "\n"]


def test_stop_that_is_complete_first_wins_wherever_token_borders_lie() -> None:
    tokenizer = byte_tokenizer("abcdef!")
    for token_ids in (_tokens(tokenizer, "abcdef!"), _tokens(tokenizer, *"abcdef!")):
        texts, _ = _feed(tokenizer, token_ids, "abcdef", "cd", "def", "d")
        assert "".join(texts) == "ab"


def test_stop_inside_a_multi_byte_character_is_not_found() -> None:
    # The bytes of "é" end with those that begin no character; no stop is looked for in bytes.
    tokenizer = byte_tokenizer()
    texts, detokenizer = _feed(tokenizer, tokenizer.encode("né🙂").ids, "\ufffd", "©")
    assert ("".join(texts), detokenizer.is_stopped) == ("né🙂", False)


def test_stop_before_min_tokens_is_not_looked_for() -> None:
    tokenizer = byte_tokenizer()
    texts, detokenizer = _feed(tokenizer, tokenizer.encode("a.b.c").ids, ".", min_tokens=2)
    assert ("".join(texts), detokenizer.is_stopped) == ("a.b", True)


@pytest.mark.parametrize("seed", range(30))
def test_text_is_the_decoded_text_up_to_the_first_stop(seed: int) -> None:
    random_ = random.Random(seed)
    tokenizer = byte_tokenizer("ab", "ba", "aab", "b ")
    text = "".join(random_.choice("ab é🙂") for _ in range(60))
    stop = tuple("".join(random_.choice("abé") for _ in range(4)) for _ in range(2))
    texts, detokenizer = _feed(tokenizer, tokenizer.encode(text).ids, *stop)
    at = min((text.find(one) for one in stop if one in text), default=None)
    assert "".join(texts) == (text if at is None else text[:at])
    assert detokenizer.is_stopped == (at is not None)


@pytest.mark.parametrize("seed", range(10))
def test_random_bytes_give_a_prefix_of_the_decoded_text(seed: int) -> None:
    random_ = random.Random(seed)
    tokenizer = byte_tokenizer()
    token_ids = [random_.randrange(tokenizer.get_vocab_size()) for _ in range(80)]
    texts, _ = _feed(tokenizer, token_ids)
    assert tokenizer.decode(token_ids, skip_special_tokens=True).startswith("".join(texts))


def _sentence_piece(*pieces: str, decoder: str = "llama") -> Tokenizer:
    """`<s>`, one token per byte, then the pieces, as Llama 2, Gemma or Metaspace write them."""
    tokens = ["<s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocab = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    tokenizer.add_special_tokens(["<s>"])
    common = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = {
        "llama": decoders.Sequence([*common, decoders.Strip(" ", 1, 0)]),
        "gemma": decoders.Sequence(common),
        "metaspace": decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]),
    }[decoder]
    return tokenizer


@pytest.mark.parametrize("decoder", ["llama", "gemma", "metaspace"])
def test_byte_fallback_text_keeps_its_spaces_inside(decoder: str) -> None:
    tokenizer = _sentence_piece("▁Hello", "▁w", "örld", decoder=decoder)
    ids = [*_tokens(tokenizer, "▁Hello", "▁w", "örld"), 1 + 0xF0, 1 + 0x9F, 1 + 0x99, 1 + 0x82]
    assert _feed(tokenizer, ids)[0] == [" Hello", " w", "örld", "", "", "", "🙂", ""]


@pytest.mark.parametrize(
    ("decoder", "expected"), [("llama", "Hello"), ("gemma", " Hello"), ("metaspace", "Hello")]
)
def test_space_of_the_notation_is_dropped_at_the_beginning_only(
    decoder: str, expected: str
) -> None:
    tokenizer = _sentence_piece("▁Hello", decoder=decoder)
    ids = _tokens(tokenizer, "▁Hello")
    assert "".join(_feed(tokenizer, [0, *ids], is_beginning=True)[0]) == expected
    assert tokenizer.decode(ids) == expected
    assert "".join(_feed(tokenizer, ids)[0]) == " Hello"


@pytest.mark.parametrize("decoder", ["llama", "gemma", "metaspace"])
@pytest.mark.parametrize("seed", range(10))
def test_byte_fallback_text_is_the_decoded_text(seed: int, decoder: str) -> None:
    random_ = random.Random(seed)
    tokenizer = _sentence_piece("▁a", "b", "▁", "é", "▁🙂", decoder=decoder)
    ids = []
    for _ in range(60):
        if random_.random() < 0.3:
            ids += [1 + byte for byte in random_.choice("aé🙂€").encode()]
        else:
            ids.append(random_.randrange(257, 262))
    texts, _ = _feed(tokenizer, [tokenizer.token_to_id("b"), *ids])
    assert "".join(texts) == tokenizer.decode([tokenizer.token_to_id("b"), *ids])


def test_tokenizer_of_another_kind_is_decoded_by_its_library() -> None:
    vocab = {"[UNK]": 0, "play": 1, "##ing": 2, "now": 3}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    assert "".join(_feed(tokenizer, [1, 2, 3])[0]) == "playing now"


def test_token_bytes_are_those_of_the_tokens_text() -> None:
    tokenizer = byte_tokenizer("né")
    assert token_bytes(tokenizer, 0) == b"<|endoftext|>"
    assert [token_bytes(tokenizer, i) for i in tokenizer.encode("é").ids] == [b"\xc3", b"\xa9"]
    assert token_bytes(tokenizer, tokenizer.token_to_id("né")) == "né".encode()
    assert token_bytes(tokenizer, 9_999) == b""
    pieces = _sentence_piece("▁Hello")
    assert token_bytes(pieces, 1 + 0x0A) == b"\n"
    assert token_bytes(pieces, pieces.token_to_id("▁Hello")) == b" Hello"
