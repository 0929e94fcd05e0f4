"""Token shards: the texts of a dataset version as flat token files that training maps into memory.

`<split>.bin` holds the tokens of all texts of a split, little-endian, each text followed by
`<|endoftext|>`, which never stands inside a text: it is the border between documents. `shards.json`
says what they are. Conversations are not in it: a trainer reads them from the dataset.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from pydantic import ValidationError
from tokenizers import Tokenizer

from everloop.errors import DataError, EverloopError
from everloop.manifest import sha256_file
from everloop.records import DatasetRow, Record
from training.shard_writer import SPLITS as ALL_SPLITS
from training.shard_writer import write_tokens
from training.tokenizer import FILE_NAME as TOKENIZER_FILE
from training.tokenizer import load_tokenizer

INFO = "shards.json"
SPLITS = ("train", "validation")  # those that every dataset has
Tokens = NDArray[np.unsignedinteger]  # uint16 or uint32


class ShardInfo(Record):
    """The content of shards.json."""

    dtype: Literal["uint16", "uint32"]
    tokens: dict[str, int]
    text_bytes: dict[str, int]  # UTF-8 bytes of the texts, without separators
    documents: dict[str, int]
    tokenizer_sha256: str
    dataset_id: str


def write_shards(
    rows: Iterable[DatasetRow], tokenizer: Path, folder: Path, dataset_id: str
) -> ShardInfo:
    """Encode the texts of a dataset version; the same version and tokenizer are encoded once.

    Args:
        rows: of the dataset, in its order; conversations and hold-out rows are passed over.
        tokenizer: folder of the tokenizer.
        folder: is replaced as a whole when all is written.
        dataset_id: of the dataset version, recorded.

    Raises:
        DataError: a split has no text, or the tokenizer is damaged or lacks `<|endoftext|>`.
        EverloopError: the disk is full.
    """
    encoder = load_tokenizer(tokenizer)
    digest = sha256_file(tokenizer / TOKENIZER_FILE)
    if found := _reusable(folder, dataset_id, digest):
        return found
    # The name says what is encoded, so that a run that was killed is found and continued.
    staging = folder.with_name(f".{folder.name}-{dataset_id}-{digest[:12]}")
    lock = staging.with_suffix(".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock):
            if found := _reusable(folder, dataset_id, digest):
                return found  # another process wrote them in the meantime
            staging.mkdir(exist_ok=True)
            info = _write(rows, encoder, staging, dataset_id, digest)
            shutil.rmtree(folder, ignore_errors=True)
            staging.rename(folder)
    except DataError:
        shutil.rmtree(staging)
        raise
    except OSError as error:
        raise EverloopError(
            f"token shards cannot be written to {staging} ({error.strerror or error}). Free space "
            "and run the command again: it goes on where it stopped."
        ) from error
    finally:
        lock.unlink(missing_ok=True)
    return info


def _write(
    rows: Iterable[DatasetRow], encoder: Tokenizer, staging: Path, dataset_id: str, digest: str
) -> ShardInfo:
    dtype = np.dtype(_dtype(encoder)).newbyteorder("<")
    counts = write_tokens(rows, encoder, staging, dtype)
    for split in SPLITS:
        if not counts[split][2]:
            raise DataError(
                f"dataset {dataset_id} has no text in its {split} split to encode. Add texts, or "
                "tune a model that can write: everloop train NAME --from FOLDER --method sft."
            )
    present = [split for split in ALL_SPLITS if counts[split][2]]
    for split in set(ALL_SPLITS) - set(present):
        (staging / f"{split}.bin").unlink()
    tokens, text_bytes, documents = (
        {split: counts[split][column] for split in present} for column in range(3)
    )
    info = ShardInfo(
        dtype=_dtype(encoder),
        tokens=tokens,
        text_bytes=text_bytes,
        documents=documents,
        tokenizer_sha256=digest,
        dataset_id=dataset_id,
    )
    (staging / INFO).write_text(info.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return info


def read_shard_info(folder: Path) -> ShardInfo:
    """Read what the shards of a folder are.

    Raises:
        DataError: the folder holds no shards.
    """
    path = folder / INFO
    try:
        return ShardInfo.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{folder} holds no token shards: {INFO} cannot be read.") from error
    except ValidationError as error:
        raise DataError(f"{path} is damaged. Write the shards again.") from error


@dataclass(frozen=True, slots=True)
class TokenShard:
    """The tokens of one split, mapped from disk.

    Attributes:
        tokens: (N,) uint16 or uint32, read-only.
    """

    tokens: Tokens
    dataset_id: str
    tokenizer_sha256: str  # of tokenizer.json
    bytes_per_token: float  # turns nats per token into bits per byte

    @classmethod
    def open(cls, folder: Path, split: str) -> "TokenShard":
        """Map the tokens of a split: train, validation or, if the dataset has one, test.

        Raises:
            DataError: there are no shards, or their length is not the recorded one.
        """
        info = read_shard_info(folder)
        path = folder / f"{split}.bin"
        dtype = np.dtype(info.dtype).newbyteorder("<")
        expected = info.tokens.get(split, 0) * dtype.itemsize
        found = path.stat().st_size if path.is_file() else 0
        if found != expected or not found:
            raise DataError(
                f"{path} has {found:,} bytes, {INFO} says {expected:,}. Write the shards again."
            )
        return cls(
            tokens=np.memmap(path, dtype=dtype, mode="r"),
            dataset_id=info.dataset_id,
            tokenizer_sha256=info.tokenizer_sha256,
            bytes_per_token=info.text_bytes[split] / info.tokens[split],
        )

    def windows(self, context_length: int) -> Tokens:
        """Cut the tokens into windows that predict every token but the first once.

        A window's last token is the first of the next: it is a target here and an input there. What
        does not fill a window at the end is left out.

        Returns:
            (N, context_length + 1), a view of the mapped file.

        Raises:
            DataError: the split is shorter than one window.
        """
        width = context_length + 1
        if len(self.tokens) < width:
            raise DataError(
                f"the split has {len(self.tokens)} tokens, one window takes {width}. Add text or "
                "shorten the context."
            )
        windows: Tokens = np.lib.stride_tricks.sliding_window_view(self.tokens, width)
        return windows[::context_length]


def _reusable(folder: Path, dataset_id: str, digest: str) -> ShardInfo | None:
    """The shards of a folder, if they are whole and of this dataset and tokenizer."""
    try:
        info = read_shard_info(folder)
        for split in {*SPLITS, *info.tokens}:
            TokenShard.open(folder, split)
    except DataError:
        return None
    return info if (info.dataset_id, info.tokenizer_sha256) == (dataset_id, digest) else None


def _dtype(tokenizer: Tokenizer) -> Literal["uint16", "uint32"]:
    return "uint16" if tokenizer.get_vocab_size() <= 1 << 16 else "uint32"
