import numpy as np
import pytest
from tokenizers import Tokenizer, processors

from everloop.errors import DataError
from tests.tiny_model import make_tiny_tokenizer
from training.export.text_windows import cut_windows


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One token per byte."""
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tiny_tokenizer(folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture
def beginning_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """Puts token 0 before a text and token 2 behind it."""
    changed = Tokenizer.from_str(tokenizer.to_str())
    changed.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A <|im_end|>",
        special_tokens=[("<|endoftext|>", 0), ("<|im_end|>", 2)],
    )
    return changed


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (3, ["abcde", "fghij", "short"]),
        (4, ["abcde", "fghij", "short", "ABCDE"]),
        (10, ["abcde", "fghij", "short", "ABCDE", "klmno"]),
    ],
)
def test_cut_windows_takes_a_few_of_each_text_first(
    tokenizer: Tokenizer, limit: int, expected: list[str]
) -> None:
    texts = ["abcdefghijklmnop", "short", "ABCDEFGH"]

    windows = cut_windows(texts, tokenizer, context=4, limit=limit)

    decoded = [tokenizer.decode(window) for window in windows.tokens.tolist()]
    assert decoded == expected
    assert windows.tokens.dtype == np.int64
    assert windows.bytes_per_token == 1.0


def test_cut_windows_reads_no_further_than_needed(tokenizer: Tokenizer) -> None:
    def texts() -> object:
        yield "abcdefghijklmnop"
        raise AssertionError

    assert cut_windows(texts(), tokenizer, context=4, limit=1).tokens.shape == (1, 5)


def test_cut_windows_begin_as_a_prompt_does(beginning_tokenizer: Tokenizer) -> None:
    windows = cut_windows(["abcdefghij"], beginning_tokenizer, context=4, limit=2)

    assert windows.tokens[:, 0].tolist() == [0, 0]
    decoded = [beginning_tokenizer.decode(window) for window in windows.tokens.tolist()]
    assert decoded == ["abcd", "efgh"]


def test_cut_windows_count_bytes_not_characters(tokenizer: Tokenizer) -> None:
    windows = cut_windows(["äöüäöüäöü"], tokenizer, context=5, limit=3)

    assert windows.tokens.shape == (3, 6)
    assert windows.bytes_per_token == 1.0


def test_prompts_are_passages_from_all_over(tokenizer: Tokenizer) -> None:
    text = "".join(chr(97 + number) * 40 for number in range(4))

    windows = cut_windows([text], tokenizer, context=79, limit=2)

    assert windows.prompts == ("a" * 24, "b" * 24, "c" * 24, "d" * 24)


def test_cut_windows_refuses_texts_that_are_too_short(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="no text has the 65 tokens of one window"):
        cut_windows(["a" * 64, ""], tokenizer, context=64, limit=4)
