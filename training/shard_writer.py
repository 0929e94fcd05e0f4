"""Encoding a dataset's texts into shards, resumable: a killed run goes on behind its last batch."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tokenizers import Tokenizer

from everloop.errors import DataError
from everloop.records import DatasetRow
from training.tokenizer import END_OF_TEXT, encode_plain

SPLITS = ("train", "validation", "test")
_PROGRESS = "progress.json"
_BATCH_CHARACTERS = 1_000_000  # enough to encode in parallel
Counts = dict[str, list[int]]  # split -> tokens, bytes of text, documents


def write_tokens(
    rows: Iterable[DatasetRow],
    tokenizer: Tokenizer,
    folder: Path,
    dtype: np.dtype[np.unsignedinteger],
) -> Counts:
    """Write `<split>.bin` for every split, or go on where they end.

    Args:
        rows: the same rows in the same order as in the run that is continued.
        folder: holds the files and, as long as they are not complete, how far they are.

    Returns:
        Tokens, bytes of UTF-8 and documents of every split.

    Raises:
        DataError: the tokenizer has no separator.
    """
    separator = tokenizer.token_to_id(END_OF_TEXT)
    if separator is None:
        raise DataError(f"the tokenizer has no {END_OF_TEXT}, which separates documents.")
    done, counts = _progress(folder)
    stream = islice(iter(rows), done, None)
    with ExitStack() as stack:
        files = {split: stack.enter_context(_opened(folder, split)) for split in SPLITS}
        for split in SPLITS:
            files[split].truncate(counts[split][0] * dtype.itemsize)
            files[split].seek(0, os.SEEK_END)
        for batch in _batches(stream):
            for split in SPLITS:
                texts = [row.text for row in batch if row.split == split and row.text is not None]
                tokens = _encode(tokenizer, texts, separator, dtype)
                files[split].write(tokens.tobytes())
                size_bytes = sum(len(text.encode("utf-8")) for text in texts)
                for column, value in enumerate((len(tokens), size_bytes, len(texts))):
                    counts[split][column] += value
            done += len(batch)
            for file in files.values():
                file.flush()
            _note(folder, done, counts)
    (folder / _PROGRESS).unlink(missing_ok=True)
    return counts


def _encode(
    tokenizer: Tokenizer, texts: list[str], separator: int, dtype: np.dtype[np.unsignedinteger]
) -> np.ndarray:
    """The tokens of texts, each followed by the separator, (N,)."""
    ids = (chain(text, (separator,)) for text in encode_plain(tokenizer, texts))
    return np.fromiter(chain.from_iterable(ids), dtype=dtype)


def _batches(rows: Iterator[DatasetRow]) -> Iterator[list[DatasetRow]]:
    held: list[DatasetRow] = []
    size = 0
    for row in rows:
        held.append(row)
        size += len(row.text or "")
        if size >= _BATCH_CHARACTERS:
            yield held
            held, size = [], 0
    if held:
        yield held


def _opened(folder: Path, split: str) -> BinaryIO:
    path = folder / f"{split}.bin"
    path.touch()
    return path.open("r+b")


def _progress(folder: Path) -> tuple[int, Counts]:
    """Rows that were encoded before, and what they gave."""
    path = folder / _PROGRESS
    if not path.is_file():
        return 0, {split: [0, 0, 0] for split in SPLITS}
    found = json.loads(path.read_text(encoding="utf-8"))
    return found["rows"], found["counts"]


def _note(folder: Path, done: int, counts: Counts) -> None:
    staging = folder / f".{_PROGRESS}"
    staging.write_text(json.dumps({"rows": done, "counts": counts}), encoding="utf-8")
    staging.replace(folder / _PROGRESS)
