"""Text on which a checkpoint from elsewhere is measured, since it brings none of its own.

The nearest to the user's own that there is: what the command names, the validation rows of the
newest dataset, filled up with Python's documentation where they are few. The same home gives the
same windows every time.
"""

import logging
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from everloop.errors import DataError
from everloop.records import Document
from everloop.settings import Home
from feedback.store.store import open_store
from training import python_docs
from training.dataset_folder import read_rows
from training.export.text_windows import MAX_CONTEXT, TextWindows, cut_windows
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

    Raises:
        ArtifactError: the folder's config or tokenizer cannot be used.
        DataError: the text cannot be read, or is too short.
    """
    from training.export.architecture import read_architecture
    from training.export.tokenizer_files import read_tokenizer

    architecture = read_architecture(checkpoint)
    tokenizer = read_tokenizer(checkpoint, architecture.vocab_size)
    context = min(architecture.max_seq_len, max_context or MAX_CONTEXT, MAX_CONTEXT)
    cut = partial(cut_windows, tokenizer=tokenizer, context=context)
    if place is not None:
        return cut(_named(place), limit=limit)
    own = None
    dataset = newest_corpus(home)
    if dataset is not None:
        logger.info("losses are compared on the validation rows of dataset %s", dataset)
        with suppress(DataError):  # none of it is long enough
            own = cut(_held(home.data / dataset), limit=limit)
    if own is not None and len(own.tokens) == limit:
        return own
    logger.info("losses are compared on Python's documentation%s", " too" if own else "")
    rest = cut(_documentation(), limit=limit - (len(own.tokens) if own else 0))
    return own.joined(rest) if own else rest


def newest_corpus(home: Home) -> str | None:
    """Id of the corpus that was built last; None without any."""
    store = open_store(home.database_url)
    corpora = store.datasets("corpus")
    store.close()
    return corpora[-1].id if corpora else None


def _named(place: str) -> Iterator[str]:
    options = ReadOptions(licence="", text_field="text", document_characters=_TEXT_CHARACTERS)
    for found in find_inputs([SourceConfig(path=place)], options, "--text"):
        for item in read_input(found, seed=0):
            if isinstance(item, Document):
                yield item.text


def _held(dataset: Path) -> Iterator[str]:
    """Validation texts; conversations are short, so several make a text."""
    spoken: list[str] = []
    for row in read_rows(dataset):
        if row.split != "validation":
            continue
        if row.text is not None:
            yield row.text
            continue
        spoken += [turn.content for turn in (*(row.messages or ()), *(row.chosen or ()))]
        if sum(map(len, spoken)) >= _TEXT_CHARACTERS:
            yield "\n".join(spoken)
            spoken = []
    yield "\n".join(spoken)


def _documentation() -> Iterator[str]:
    return (item.text for item in python_docs.read() if isinstance(item, Document))
