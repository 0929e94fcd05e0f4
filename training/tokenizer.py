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
from everloop.text_files import read_text_file

END_OF_TEXT = "<|endoftext|>"  # id 0: begin of sequence, padding and document separator
IM_START = "<|im_start|>"  # id 1
IM_END = "<|im_end|>"  # id 2: ends an answer
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END)
FILE_NAME = "tokenizer.json"


class TokenizerConfig(Config):
    """[tokenizer]: how the vocabulary is learnt, or where it is taken from."""

    path: str | None = Field(
        None, description="A tokenizer.json, or a folder with one, to use as it is; none is learnt."
    )

    vocab_size: int = Field(
        4096, ge=512, le=1_000_000, description="Tokens, special ones and 256 bytes included."
    )
    min_frequency: int = Field(2, ge=1, description="Rarest pair that may become a token.")


def train_tokenizer(rows: Iterable[DatasetRow], config: TokenizerConfig, folder: Path) -> Tokenizer:
    """Learn a vocabulary from the training split and save it.

    Texts and answers that are too few for `vocab_size` give a smaller vocabulary. A tokenizer that
    the configuration names is taken in their place; of `<|endoftext|>`, `<|im_start|>` and
    `<|im_end|>` it gets what it lacks, as new tokens behind its own.

    Args:
        rows: a dataset version; only rows of the training split are learnt from.
        config: size of the vocabulary.
        folder: receives tokenizer.json, tokenizer_config.json and chat_template.jinja.

    Raises:
        DataError: no row belongs to the training split, or the named tokenizer cannot be used.
    """
    if config.path is not None:
        tokenizer = _adopted(Path(config.path))
        _save(tokenizer, folder)
        return tokenizer
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


def load_tokenizer(folder: Path, name: str = FILE_NAME) -> Tokenizer:
    """Read the tokenizer of a folder.

    Raises:
        DataError: the folder holds none, or a damaged one.
    """
    path = folder / name
    try:
        if not path.is_file():
            raise DataError(f"{folder} holds no {name}. Train a tokenizer first.")
        return Tokenizer.from_str(read_text_file(path))
    except DataError:
        raise
    except Exception as error:  # tokenizers raises bare Exception for what it cannot parse
        raise DataError(f"{path} is no tokenizer ({error}). Train it again.") from error


def open_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer from its file or its folder.

    Raises:
        DataError: there is none, or a damaged one.
    """
    return load_tokenizer(path) if path.is_dir() else load_tokenizer(path.parent, path.name)


def _adopted(path: Path) -> Tokenizer:
    tokenizer = open_tokenizer(path)
    missing = [token for token in SPECIAL_TOKENS if tokenizer.token_to_id(token) is None]
    taken = set(tokenizer.get_vocab().values())
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in missing])
    if any(tokenizer.token_to_id(token) in taken for token in missing):
        raise DataError(
            f"{path} lacks {', '.join(missing)}, and its ids have holes: a new token would take "
            "the id of another. Add them to its file, behind the highest id."
        )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


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


def _training_texts(rows: Iterable[DatasetRow]) -> Iterator[str]:
    for row in rows:
        if row.split == "train":
            if row.text is not None:
                yield row.text
            for message in (*(row.messages or ()), *(row.chosen or ()), *(row.rejected or ())):
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
