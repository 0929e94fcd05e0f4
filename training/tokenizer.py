"""The tokenizer: byte-level BPE, saved as the Hugging Face folder that every later stage reads.

Special tokens are recognised only where the chat template writes them. `encode` of the returned
tokenizer follows Hugging Face and recognises them anywhere, so text that a person wrote goes
through `encode_plain`.
"""

import itertools
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import Field
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from everloop.chat import CHAT_TEMPLATE
from everloop.errors import DataError
from everloop.records import DatasetRow
from everloop.settings import Config

END_OF_TEXT = "<|endoftext|>"  # id 0: begin of sequence, padding and document separator
IM_START = "<|im_start|>"  # id 1
IM_END = "<|im_end|>"  # id 2: ends an answer
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END)
FILE_NAME = "tokenizer.json"


class TokenizerConfig(Config):
    """How the vocabulary is learnt."""

    vocab_size: int = Field(
        4096, ge=512, le=1_000_000, description="Tokens, special ones and 256 bytes included."
    )
    min_frequency: int = Field(2, ge=1, description="Rarest pair that may become a token.")


def train_tokenizer(rows: Iterable[DatasetRow], config: TokenizerConfig, folder: Path) -> Tokenizer:
    """Learn a vocabulary from the training split and save it.

    Texts and answers that are too few for `vocab_size` give a smaller vocabulary.

    Args:
        rows: a dataset version; validation and hold-out rows are left out.
        config: size of the vocabulary.
        folder: receives tokenizer.json, tokenizer_config.json and chat_template.jinja.

    Raises:
        DataError: no row belongs to the training split.
    """
    texts = _training_texts(rows)
    first = next(texts, None)
    if first is None:
        raise DataError("the dataset has no training rows to learn a tokenizer from.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(itertools.chain([first], texts), trainer)
    _save(tokenizer, folder)
    return tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer of a folder.

    Raises:
        DataError: the folder holds none, or a damaged one.
    """
    path = folder / FILE_NAME
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no {FILE_NAME}. Train a tokenizer first.") from error
    except Exception as error:  # tokenizers raises bare Exception for what it cannot parse
        raise DataError(f"{path} is no tokenizer ({error}). Train it again.") from error


def encode_plain(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Encode texts in which `<|im_end|>` and its like are ordinary characters.

    Returns:
        Token ids per text, none of them special.
    """
    before = tokenizer.encode_special_tokens
    tokenizer.encode_special_tokens = True
    try:
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]
    finally:
        tokenizer.encode_special_tokens = before


def bytes_per_token(tokenizer: Tokenizer, texts: Iterable[str]) -> float:
    """Measure how many bytes of UTF-8 one token stands for, over all texts.

    Raises:
        DataError: the texts are empty.
    """
    size_bytes = tokens = 0
    for text in texts:
        size_bytes += len(text.encode("utf-8"))
        tokens += len(encode_plain(tokenizer, [text])[0])
    if not tokens:
        raise DataError("bytes per token cannot be measured: the texts are empty.")
    return size_bytes / tokens


def _training_texts(rows: Iterable[DatasetRow]) -> Iterator[str]:
    for row in rows:
        if row.split == "train":
            if row.text is not None:
                yield row.text
            for message in row.messages or ():
                yield message.content


def _save(tokenizer: Tokenizer, folder: Path) -> None:
    # Imported here: encoding needs no transformers, whose import takes a second.
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as staging:
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token=END_OF_TEXT,
            eos_token=IM_END,
            pad_token=END_OF_TEXT,
            chat_template=CHAT_TEMPLATE,
            clean_up_tokenization_spaces=False,
        ).save_pretrained(staging)
        for path in Path(staging).iterdir():
            path.replace(folder / path.name)
