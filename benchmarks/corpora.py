"""Texts as the benchmarks of training need them: a tokenizer folder and token shards."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from everloop.chat import CHAT_TEMPLATE
from everloop.records import DatasetRow
from training.shards import write_shards
from training.tokenizer import END_OF_TEXT, IM_END, SPECIAL_TOKENS, TokenizerConfig, train_tokenizer

Split = Literal["train", "validation"]
Texts = Mapping[Split, Sequence[str]]


def as_rows(texts: Texts) -> list[DatasetRow]:
    """Dataset rows of plain texts."""
    return [
        DatasetRow(
            id=hashlib.sha256(f"{split}{number}{text}".encode()).hexdigest(),
            split=split,
            sources=(),
            text=text,
        )
        for split, several in texts.items()
        for number, text in enumerate(several)
    ]


def make_shards(texts: Texts, tokenizer: Path, folder: Path) -> Path:
    """Encode texts for pre-training."""
    write_shards(as_rows(texts), tokenizer, folder, f"benchmark-{folder.name}")
    return folder


def make_bpe(texts: Iterable[str], vocab_size: int, folder: Path) -> Path:
    """Train a tokenizer."""
    rows = as_rows({"train": list(texts)})
    train_tokenizer(rows, TokenizerConfig(vocab_size=vocab_size), folder)
    return folder


def make_characters(text: str, folder: Path) -> Path:
    """Make a tokenizer whose tokens are the characters of a text, after the special ones."""
    tokens = [*SPECIAL_TOKENS, *sorted(set(text))]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        eos_token=IM_END,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    return folder
