"""Tokens of a text that follows another, from every kind of tokenizer."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from serving.engine.grammar_tokens import GrammarTokens
from serving.engine.sampling_params import StructuredOutput
from serving.engine.structured_output import GrammarCompiler
from serving.engine.vocabulary import Vocabulary
from tests.serving.engine.conftest import byte_tokenizer

MERGES = [("n", "a"), ("m", "e"), ("na", "me"), ("▁", "name")]


def _sentence_piece(prefix: str) -> Tokenizer:
    """Llama's way to put a space before every text: in a normalizer or in a pre-tokenizer."""
    pieces = ["▁", "n", "a", "m", "e", "x", *("".join(pair) for pair in MERGES)]
    tokens = ["<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=MERGES, byte_fallback=True))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    replace = normalizers.Replace(" ", "▁")
    if prefix == "normalizer":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    elif prefix == "alone":
        tokenizer.normalizer = normalizers.Prepend("▁")
    else:
        metaspace = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([metaspace])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=8)
    return tokenizer


@pytest.mark.parametrize("prefix", ["normalizer", "alone", "pre-tokenizer"])
def test_tokens_of_a_text_say_the_text_and_nothing_before_it(prefix: str) -> None:
    tokenizer = _sentence_piece(prefix)
    vocabulary = Vocabulary(tokenizer)
    assert tokenizer.encode("name").tokens[0] == "▁name"
    tokens = GrammarTokens(vocabulary, tokenizer.get_vocab_size(), [1])
    for text in ("name", "xnamexnam", "é🙂"):
        assert b"".join(map(vocabulary.bytes_of, tokens(text))) == text.encode()


def test_byte_level_tokenizer_with_a_prefix_space_says_the_text() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokens = GrammarTokens(Vocabulary(tokenizer), 257, [0])
    assert b"".join(tokens.tokens[token_id] for token_id in tokens("ab")) == b"ab"


def test_tokens_beyond_the_tokenizer_have_no_bytes() -> None:
    tokens = GrammarTokens(Vocabulary(byte_tokenizer("ab")), 260, [0, 5])
    assert tokens.tokens[257:] == [b"ab", b"", b""]
    assert tokens.special_token_ids == [0, 5]
    assert tokens.eos_token_id == 0
    assert GrammarTokens(Vocabulary(byte_tokenizer()), 257, []).eos_token_id is None


@pytest.mark.parametrize("prefix", ["normalizer", "pre-tokenizer"])
def test_a_grammar_forces_text_of_a_tokenizer_with_a_prefix(prefix: str) -> None:
    tokenizer = _sentence_piece(prefix)
    compiler = GrammarCompiler(Vocabulary(tokenizer), tokenizer.get_vocab_size(), [1])
    matcher = compiler.start(StructuredOutput("regex", "name x name"))
    for token in ("name", "▁", "x", "▁name"):
        matcher.accept(tokenizer.token_to_id(token))
    assert matcher.is_complete
