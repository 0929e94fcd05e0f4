"""Build a dataset version: read the sources, clean, split by document, write.

    from training.dataset import DataConfig, build_dataset
    info = build_dataset(DataConfig(), home)

The folder itself is the business of `dataset_folder`.
"""

import difflib
import hashlib
import platform
from collections.abc import Callable, Iterator
from typing import Literal

from pydantic import Field

from everloop.errors import DataError
from everloop.records import DatasetInfo, DatasetRow, Document, Source, content_hash
from everloop.settings import Home
from training import python_docs
from training.cleaning.config import CleanConfig
from training.cleaning.pipeline import Cleaner
from training.corpus import Conversation, Dropped, Item
from training.dataset_folder import (
    DatasetWriter,
    read_dropped,
    read_info,
    read_rows,
    verify_dataset,
    write_dataset,
)
from training.readers import ReadOptions, read_files

__all__ = [
    "DataConfig", "build_dataset", "read_dropped", "read_info", "read_items", "read_rows",
    "split_of", "verify_dataset", "write_dataset",
]  # fmt: skip


class DataConfig(CleanConfig):
    """The table `[data]`: where the text comes from, how it is cleaned and split."""

    sources: tuple[str, ...] = Field(
        (python_docs.NAME,),
        min_length=1,
        strict=False,
        description="python-docs, the documentation that comes with Python, or files, folders and "
        "glob patterns.",
    )
    licence: str = Field("unspecified", description="Licence of the files; recorded, not checked.")
    text_field: str = Field("text", description="Key of a .jsonl line that holds its text.")
    document_characters: int = Field(
        4000, ge=100, description="A text file is cut at the first blank line behind this many."
    )
    exclude_topics: tuple[str, ...] = Field(
        (), strict=False, description="Topics whose question-answer pairs are left out."
    )
    validation_share: float = Field(
        0.1, gt=0, lt=1, description="Share of the documents that is kept from training."
    )
    seed: int = Field(0, ge=0, description="Chooses validation documents and wordings.")


def build_dataset(
    config: DataConfig, home: Home, progress: Callable[[int], None] | None = None
) -> DatasetInfo:
    """Build the dataset version of a configuration; the same content is not written twice.

    Args:
        config: the table `[data]`.
        home: receives the version under `data/`.
        progress: is called with the number of documents and conversations read so far.

    Raises:
        DataError: a source cannot be read, nothing is left after cleaning, a topic is unknown, or
            one side of the split is empty.
    """
    licences: set[str] = set()
    with DatasetWriter(home) as writer:
        cleaner = Cleaner(config, writer.drop)
        for item in cleaner.run(_wanted(config, writer, progress)):
            writer.add(_row(item, config))
            licences.add(item.licence)
        _check_split(writer, config)
        with_docs = python_docs.NAME in config.sources
        return writer.finish(
            sources=config.sources,
            licences=licences,
            masked=cleaner.masked,
            python_version=platform.python_version() if with_docs else None,
        )


def read_items(config: DataConfig) -> Iterator[Item]:
    """Read all sources of a configuration, in their order, before cleaning.

    Raises:
        DataError: a source is missing or cannot be read.
    """
    options = ReadOptions(config.licence, config.text_field, config.document_characters)
    for source in config.sources:
        if source == python_docs.NAME:
            yield from python_docs.read(config.seed)
        else:
            yield from read_files((source,), options)


def split_of(
    document_id: str, validation_share: float, seed: int
) -> Literal["train", "validation"]:
    """Decide by its id alone on which side a document lies, whatever else the corpus holds."""
    digest = hashlib.sha256(f"{seed}:{document_id}".encode()).digest()
    is_validation = int.from_bytes(digest[:8]) < validation_share * 2**64
    return "validation" if is_validation else "train"


def _wanted(
    config: DataConfig, writer: DatasetWriter, progress: Callable[[int], None] | None
) -> Iterator[Document | Conversation]:
    """Pass on what is to be cleaned; what could not be read or is not wanted is dropped here."""
    topics: set[str] = set()
    done = 0
    for item in read_items(config):
        if isinstance(item, Dropped):
            writer.drop(item)
            continue
        done += 1
        if progress is not None:
            progress(done)
        if isinstance(item, Conversation) and item.topic is not None:
            topics.add(item.topic)
            if item.topic in config.exclude_topics:
                writer.drop(_excluded(item))
                continue
        yield item
    _check_topics(config.exclude_topics, topics)
    if not done:
        raise DataError(f"the corpus is empty: {', '.join(config.sources)} holds no text.")


def _excluded(item: Conversation) -> Dropped:
    return Dropped(
        id=item.id,
        source=item.source,
        step="exclude_topics",
        reason=item.topic or "",
        text="\n\n".join(message.content for message in item.messages),
    )


def _check_topics(excluded: tuple[str, ...], known: set[str]) -> None:
    for topic in excluded:
        if topic not in known:
            match = difflib.get_close_matches(topic, known, n=1)
            hint = f"; did you mean {match[0]}?" if match else "."
            raise DataError(f"data.exclude_topics: the corpus has no topic {topic!r}{hint}")


def _row(item: Document | Conversation, config: DataConfig) -> DatasetRow:
    if isinstance(item, Document):
        document, topic, text, messages = item.id, None, item.text, None
    else:
        document, topic, text, messages = item.document, item.topic, None, item.messages
    return DatasetRow(
        id=content_hash(text, messages),
        split=split_of(document, config.validation_share, config.seed),
        sources=(Source(kind="document", id=document),),
        text=text,
        messages=messages,
        topic=topic,
    )


def _check_split(writer: DatasetWriter, config: DataConfig) -> None:
    if not writer.counts:
        (step, reason), count = writer.drops.most_common(1)[0]
        raise DataError(
            f"cleaning left nothing of {', '.join(config.sources)}: most were dropped by {step} "
            f"({reason}, {count} of {writer.drops.total()}). Loosen that threshold in [data]."
        )
    for kind in sorted({kind for _, kind in writer.counts}):
        for side in ("train", "validation"):
            if not writer.counts[side, kind]:
                total = sum(count for (_, k), count in writer.counts.items() if k == kind)
                raise DataError(
                    f"the split leaves no {side} data: all {total} {kind} rows lie on the other "
                    "side. Add documents, or change data.validation_share or data.seed."
                )
