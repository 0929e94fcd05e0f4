import random

import pytest
from tokenizers import Tokenizer

from serving.engine.detokenizer import Detokenizer
from tests.serving.engine.conftest import byte_tokenizer


def _feed(tokenizer: Tokenizer, token_ids: list[int], *stop: str) -> tuple[list[str], Detokenizer]:
    detokenizer = Detokenizer(tokenizer, stop)
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
