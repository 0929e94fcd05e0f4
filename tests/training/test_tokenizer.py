import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from everloop.chat import CHAT_TEMPLATE
from everloop.errors import DataError
from everloop.records import DatasetRow, Message, Source
from training.tokenizer import (
    TokenizerConfig,
    encode_plain,
    load_tokenizer,
    train_tokenizer,
)
from training.tokens import TokenizerFolder

HOSTILE = [
    "",
    " ",
    "\n\n\t  \r\n",
    "naïve café — “quotes”",
    "🧑‍🚀👩🏽‍🔬 emoji",
    "日本語と한국어",
    "a\u0301 combining, \u202eright to left\u202c",
    "\x00\x01\x7f control",
    "�￾ \U0010ffff",
    "<|im_end|><|im_start|>system\n<|endoftext|>",
    "<|im_end| >",
    "    def f(x):\n        return x ** 2  # indented",
    "1234567890" * 20,
    "a" * 5000,
]


def row(text: str | None = None, split: str = "train", answer: str | None = None) -> DatasetRow:
    messages = (Message(role="assistant", content=answer),) if answer else None
    sources = (Source(kind="document", id="d"),)
    return DatasetRow(id="0", split=split, sources=sources, text=text, messages=messages)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", HOSTILE)
def test_tokenizer_round_trips(tiny_tokenizer: Path, text: str) -> None:
    tokenizer = load_tokenizer(tiny_tokenizer)
    ids = encode_plain(tokenizer, [text])[0]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_special_tokens_have_the_agreed_ids(tiny_tokenizer: Path) -> None:
    tokenizer = load_tokenizer(tiny_tokenizer)
    tokens = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    assert [tokenizer.token_to_id(token) for token in tokens] == [0, 1, 2]


def test_encode_plain_makes_no_special_token(tiny_tokenizer: Path) -> None:
    tokenizer = load_tokenizer(tiny_tokenizer)
    text = "a<|im_end|><|endoftext|><|im_start|>b"
    assert tokenizer.encode(text).ids.count(2) == 1
    assert not {0, 1, 2} & set(encode_plain(tokenizer, [text])[0])
    assert tokenizer.encode(text).ids.count(2) == 1  # the tokenizer is left as it was


def test_train_tokenizer_learns_from_training_rows_alone(tmp_path: Path) -> None:
    rows = [row("abcabc " * 50), row("xyzxyz " * 50, "validation"), row(answer="qrsqrs " * 50)]
    vocabulary = train_tokenizer(rows, TokenizerConfig(vocab_size=512), tmp_path).get_vocab()
    assert "abcabc" in vocabulary
    assert "qrsqrs" in vocabulary
    assert "xyz" not in vocabulary


def test_train_tokenizer_learns_from_both_sides_of_a_preference(tmp_path: Path) -> None:
    sides = {
        side: (Message(role="assistant", content=f"{side} " * 50),)
        for side in ("chosen", "rejected")
    }
    rows = [row(answer="asked").model_copy(update=sides)]
    vocabulary = train_tokenizer(rows, TokenizerConfig(vocab_size=512), tmp_path).get_vocab()
    assert {"chosen", "rejected"} <= {token.strip("\u0120") for token in vocabulary}


def test_train_tokenizer_reaches_the_vocabulary_size(tmp_path: Path) -> None:
    words = " ".join(f"word{number} word{number}" for number in range(2000))
    tokenizer = train_tokenizer([row(words)], TokenizerConfig(vocab_size=600), tmp_path)
    assert tokenizer.get_vocab_size() == 600


def test_train_tokenizer_is_deterministic(tmp_path: Path, tiny_tokenizer: Path) -> None:
    for name in ("a", "b"):
        train_tokenizer([row("the quick brown fox " * 9)], TokenizerConfig(), tmp_path / name)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_train_tokenizer_refuses_a_dataset_without_training_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training rows"):
        train_tokenizer([row("abc", "validation")], TokenizerConfig(), tmp_path)


def test_folder_loads_in_transformers(tiny_tokenizer: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(tiny_tokenizer)
    assert (loaded.bos_token_id, loaded.pad_token_id, loaded.eos_token_id) == (0, 0, 2)
    assert loaded.chat_template == CHAT_TEMPLATE
    text = "os.path.join(a, *p) — naïve"
    assert loaded(text)["input_ids"] == load_tokenizer(tiny_tokenizer).encode(text).ids


def test_folder_masks_all_but_the_answer(tiny_tokenizer: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(tiny_tokenizer)
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    encoded = loaded.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    pairs = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
    answer = [token for token, is_answer in pairs if is_answer]
    assert loaded.decode(answer) == "yo<|im_end|>"


def test_train_tokenizer_takes_a_given_one(tmp_path: Path, tiny_tokenizer: Path) -> None:
    given = json.loads((tiny_tokenizer / "tokenizer.json").read_text())
    given["added_tokens"] = [t for t in given["added_tokens"] if t["content"] == "<|endoftext|>"]
    vocabulary = given["model"]["vocab"]
    for token in ("<|im_start|>", "<|im_end|>"):
        del vocabulary[token]
    with_holes = tmp_path / "holes.json"
    with_holes.write_text(json.dumps(given))
    given["model"]["vocab"] = {token: max(0, number - 2) for token, number in vocabulary.items()}
    given["truncation"] = {
        "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    (tmp_path / "given.json").write_text(json.dumps(given))
    config = TokenizerConfig(path=str(tmp_path / "given.json"))
    tokenizer = train_tokenizer([], config, tmp_path / "folder")
    text = "The quick brown fox reads the documentation"
    (expected,) = encode_plain(load_tokenizer(tiny_tokenizer), [text])
    assert encode_plain(tokenizer, [text]) == [[number - 2 for number in expected]]
    folder = TokenizerFolder.read(tmp_path / "folder")
    assert folder.special.bos == 0
    assert folder.special.eos[1] == folder.vocab_size - 1
    with pytest.raises(
        DataError, match=r"lacks <\|im_start\|>, <\|im_end\|>, and its ids have holes"
    ):
        train_tokenizer([], TokenizerConfig(path=str(with_holes)), tmp_path / "x")
    with pytest.raises(DataError, match=r"holds no gone\.json"):
        train_tokenizer([], TokenizerConfig(path=str(tmp_path / "gone.json")), tmp_path / "x")


def test_load_tokenizer_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": 1}))
    with pytest.raises(DataError, match=r"tokenizer\.json is no tokenizer"):
        load_tokenizer(tmp_path)
