import math
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from everloop.errors import DataError
from everloop.records import DatasetRow, Message
from tests.training.preferences import pairs
from training.pretrained import load_network
from training.row_quality import Evaluation, evaluate_rows
from training.tokenizer import encode_plain


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint, local_files_only=True)
    return load_network(tiny_checkpoint), tokenizer


def _text(number: int, text: str, topic: str | None = None) -> DatasetRow:
    return DatasetRow(id=f"{number:064d}", split="validation", sources=(), text=text, topic=topic)


def _chat(question: str, answer: str) -> DatasetRow:
    messages = (
        Message(role="user", content=question),
        Message(role="assistant", content=answer),
    )
    return DatasetRow(id="c" * 64, split="validation", sources=(), messages=messages)


def test_evaluate_rows_gives_the_networks_own_loss(loaded) -> None:
    network, tokenizer = loaded
    text = "A lazy dog raises ValueError if the list is empty."
    found = evaluate_rows(network, tokenizer, [_text(1, text)])["text"]
    ids = torch.tensor([[0, *encode_plain(tokenizer.backend_tokenizer, [text])[0]]])
    with torch.no_grad():
        expected = network(input_ids=ids, labels=ids).loss.item()
    assert found.loss == pytest.approx(expected, abs=1e-5)
    assert (found.tokens, found.size_bytes) == (ids.shape[1] - 1, len(text))


def test_evaluate_rows_scores_every_token_of_a_long_text(loaded) -> None:
    network, tokenizer = loaded
    text = "The quick brown fox reads the documentation. " * 40
    found = evaluate_rows(network, tokenizer, [_text(1, text)])["text"]
    assert found.tokens == len(encode_plain(tokenizer.backend_tokenizer, [text])[0]) > 64


def test_evaluate_rows_scores_answers_alone(loaded) -> None:
    network, tokenizer = loaded
    found = evaluate_rows(network, tokenizer, [_chat("What is it?", "A list.")])
    answer = encode_plain(tokenizer.backend_tokenizer, ["A list."])[0]
    assert found["chat"].tokens == len(answer) + 1  # and the end mark
    assert found["chat"].size_bytes == 7


def test_evaluate_rows_groups_by_kind_and_topic(loaded) -> None:
    rows = [_text(1, "A list.", "list"), _text(2, "A string.", "str"), _text(3, "Items.", "str")]
    found = evaluate_rows(*loaded, rows)
    assert {name: group.rows for name, group in found.items()} == {
        "text": 3, "text: list": 1, "text: str": 2,
    }  # fmt: skip
    assert found["text"].nats == pytest.approx(found["text: list"].nats + found["text: str"].nats)


def test_evaluate_rows_refuses_rows_without_a_loss(loaded) -> None:
    with pytest.raises(DataError, match="nothing to evaluate on"):
        evaluate_rows(*loaded, pairs("validation", 2))


def test_evaluation_of_a_uniform_guess() -> None:
    guess = Evaluation(rows=1, tokens=10, size_bytes=20, nats=10 * math.log(512))
    assert guess.perplexity == pytest.approx(512)
    assert guess.bits_per_byte == pytest.approx(4.5)  # 9 bits per token, 2 bytes per token
