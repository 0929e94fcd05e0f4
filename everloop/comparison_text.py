"""Text on which a checkpoint from elsewhere is measured, since it brings none of its own.

The nearest to the user's own that there is: what the command names, the validation texts of the
newest dataset, or Python's documentation. The same home gives the same windows every time.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

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
    return cut_windows(_texts(home, place), tokenizer, context=context, limit=limit)


def newest_corpus(home: Home) -> str | None:
    """Id of the corpus that was built last; None without any."""
    store = open_store(home.database_url)
    corpora = store.datasets("corpus")
    store.close()
    return corpora[-1].id if corpora else None


def _texts(home: Home, place: str | None) -> Iterator[str]:
    if place is not None:
        options = ReadOptions(licence="", text_field="text", document_characters=_TEXT_CHARACTERS)
        for found in find_inputs([SourceConfig(path=place)], options, "--text"):
            for item in read_input(found, seed=0):
                if isinstance(item, Document):
                    yield item.text
        return
    dataset = newest_corpus(home)
    if dataset is None:
        logger.info("losses are compared on Python's documentation")
        for item in python_docs.read():
            if isinstance(item, Document):
                yield item.text
        return
    logger.info("losses are compared on the validation texts of dataset %s", dataset)
    for row in read_rows(home.data / dataset):
        if row.split == "validation" and row.text is not None:
            yield row.text
