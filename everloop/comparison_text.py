"""Text on which a checkpoint from elsewhere is measured, since it brings none of its own.

The nearest to the user's own that there is: what the command names, or the validation texts and
then the conversations of the newest dataset, filled up with Python's documentation where they are
few. The same home gives the same windows every time.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer

from everloop.errors import DataError
from everloop.records import Document
from everloop.settings import Home
from feedback.store.store import open_store
from training import python_docs
from training.dataset_folder import read_rows
from training.export.text_windows import MAX_CONTEXT, TextWindows, TooShortError, cut_windows
from training.reading.options import ReadOptions
from training.sources import SourceConfig, find_inputs, read_input

_TEXT_CHARACTERS = 8_000  # of one piece of a text file

logger = logging.getLogger(__name__)


def comparison_windows(
    home: Home,
    checkpoint: Path,
    limit: int,
    *,
    place: str | None = None,
    max_context: int | None = None,
) -> TextWindows:
    """Cut the text into windows of the checkpoint's own tokens.

    Args:
        home: its newest dataset is used.
        checkpoint: Hugging Face folder.
        limit: number of windows that are enough.
        place: file, folder, pattern or URL of the text to use instead.
        max_context: tokens that a window may predict.

    The text nearest to the user's own that is long enough is taken.

    Raises:
        ArtifactError: the folder's config or tokenizer cannot be used.
        DataError: the text that was named cannot be read, or is too short.
    """
    from training.export.architecture import read_architecture
    from training.export.tokenizer_files import read_tokenizer

    architecture = read_architecture(checkpoint)
    tokenizer = read_tokenizer(checkpoint, architecture.vocab_size)
    context = min(architecture.max_seq_len, max_context or MAX_CONTEXT, MAX_CONTEXT)
    if place is not None:
        return replace(_cut_named(place, tokenizer, context, limit), name=place)
    found: TextWindows | None = None
    for name, texts in _own_texts(home):
        left = limit - (len(found.tokens) if found else 0)
        if not left:
            break
        try:
            cut = cut_windows(texts, tokenizer, context=context, limit=left)
        except TooShortError as error:
            logger.info("losses are not compared on %s: %s", name, error)
            continue
        found = found.joined(replace(cut, name=name)) if found else replace(cut, name=name)
    if found is None:
        raise DataError(
            f"{checkpoint} cannot be measured: neither the newest dataset nor Python's "
            "documentation has a text that is long enough for it. Build a dataset of longer texts."
        )
    logger.info("losses are compared on %s", found.name)
    return found


def newest_corpus(home: Home) -> str | None:
    """Id of the corpus that was built last; None without any."""
    store = open_store(home.database_url)
    corpora = store.datasets("corpus")
    store.close()
    return corpora[-1].id if corpora else None


def _cut_named(place: str, tokenizer: Tokenizer, context: int, limit: int) -> TextWindows:
    options = ReadOptions(licence="", text_field="text", document_characters=_TEXT_CHARACTERS)
    inputs = find_inputs([SourceConfig(path=place)], options, "--text")
    items = (item for found in inputs for item in read_input(found, seed=0))
    texts = (item.text for item in items if isinstance(item, Document))
    try:
        return cut_windows(texts, tokenizer, context=context, limit=limit)
    except TooShortError as error:
        raise DataError(f"--text {place}: {error} Name a longer text.") from error


def _own_texts(home: Home) -> Iterator[tuple[str, Iterator[str]]]:
    """What there is without being named, the nearest first, with a name for people."""
    dataset = newest_corpus(home)
    if dataset is not None:
        rows = home.data / dataset
        yield (
            f"validation texts of {dataset}",
            (row.text for row in read_rows(rows) if row.split == "validation" and row.text),
        )
        yield f"validation conversations of {dataset}", _talks(rows)
    yield (
        "Python's documentation",
        (item.text for item in python_docs.read() if isinstance(item, Document)),
    )


def _talks(folder: Path) -> Iterator[str]:
    """Conversations one behind the other: each alone is shorter than a window."""
    held, length = [], 0
    for row in read_rows(folder):
        if row.split == "validation" and row.messages is not None:
            turns = (*row.messages, *(row.chosen or ()))
            held.append("\n\n".join(turn.content for turn in turns))
            length += len(held[-1])
            if length >= _TEXT_CHARACTERS:
                yield "\n\n".join(held)
                held, length = [], 0
    if held:
        yield "\n\n".join(held)
