"""Build a dataset version: find the sources, clean them stage by stage, split, write.

    from training.dataset import DataConfig, build_dataset
    info = build_dataset(DataConfig(), home)

Reading and cleaning are the business of `sources` and `cleaning`, the folder of `dataset_folder`.
"""

import difflib
import hashlib
import platform
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from everloop.errors import DataError, RefusedError
from everloop.records import DatasetInfo, DatasetRow, Document, Source, Split, content_hash
from everloop.settings import Home
from training import python_docs
from training.cleaning.config import CleanConfig
from training.cleaning.reasons import explain
from training.cleaning.source_reader import SourceReader, items_read, topics_seen
from training.cleaning.stages import Stages, deal
from training.corpus import Conversation, Dropped, Origin
from training.data_card import CardBuilder
from training.dataset_folder import (
    DatasetWriter,
    read_dropped,
    read_info,
    read_rows,
    verify_dataset,
    write_dataset,
)
from training.reading.options import ReadOptions
from training.sources import SourceConfig, find_inputs
from training.work_folder import evaluation_index, reporting, work_folder

__all__ = [
    "DataConfig", "build_dataset", "read_dropped", "read_info", "read_rows", "split_of",
    "verify_dataset", "write_dataset",
]  # fmt: skip


class DataConfig(CleanConfig):
    """The table `[data]`: where the text comes from, how it is cleaned and split."""

    sources: tuple[str, ...] = Field(
        (python_docs.NAME,),
        strict=False,
        description="python-docs, the documentation that comes with Python, or files, folders, "
        "glob patterns and URLs; none by default where there are [[data.source]] tables.",
    )
    source: tuple[SourceConfig, ...] = Field(
        (), strict=False, description="[[data.source]] tables: sources with fields of their own."
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
    test_share: float = Field(
        0.0, ge=0, lt=1, description="Share that is kept from training and from its decisions."
    )
    seed: int = Field(0, ge=0, description="Chooses validation documents and wordings.")
    parent: str | None = Field(None, description="Dataset version that this one extends; recorded.")

    @model_validator(mode="before")
    @classmethod
    def _no_default_beside_tables(cls, values: Any) -> Any:
        """Who names sources of their own does not want Python's documentation mixed in."""
        if isinstance(values, dict) and values.get("source") and "sources" not in values:
            return {**values, "sources": ()}
        return values

    @property
    def all_sources(self) -> tuple[SourceConfig, ...]:
        """Both lists as tables, in their order."""
        return (*(SourceConfig(path=path) for path in self.sources), *self.source)

    @property
    def source_names(self) -> tuple[str, ...]:
        """The sources as a person named them."""
        return tuple(
            source.name or source.path or source.dataset or "" for source in self.all_sources
        )


def build_dataset(
    config: DataConfig, home: Home, progress: Callable[[str, int], None] | None = None
) -> DatasetInfo:
    """Build the dataset version of a configuration; the same content is not written twice.

    A build that was killed goes on where its last finished task ended.

    Args:
        config: the table `[data]`.
        home: receives the version under `data/`.
        progress: is called with what is being done and how much of it is done.

    Raises:
        DataError: a source cannot be read, nothing is left after cleaning, a topic is unknown, or
            one side of the split is empty.
        ConfigError: another process builds the same, or a setting of a step is wrong.
        RefusedError: the steps were submitted to Slurm and are not done.
    """
    if config.parent is not None:
        read_info(home.data / config.parent)
    options = ReadOptions(config.licence, config.text_field, config.document_characters)
    inputs = find_inputs(config.all_sources, options)
    if not inputs:
        raise DataError("data.sources and data.source are both empty. Name a source.")
    with work_folder(home, config, inputs) as work:
        shares = deal(inputs, config.executor.task_megabytes * 1e6)
        kinds = config.personal_data.kinds
        reader = SourceReader(shares, config.seed, config.exclude_topics, work, kinds)
        index = evaluation_index(config.decontamination, options, work)
        stages = Stages(config, reader, work, index)
        with (
            reporting(progress, "read and clean", lambda: items_read(work)),
            reporting(progress, "find duplicates, tasks", stages.done_searches),
        ):
            is_done = stages.run()
        if not is_done:
            raise RefusedError(_submitted(stages))
        try:
            info = _write(config, home, stages, progress)
        except DataError:
            shutil.rmtree(work)  # to try again would end the same
            raise
        shutil.rmtree(work)
    return info


def split_of(group: str, validation_share: float, seed: int, test_share: float = 0.0) -> Split:
    """Decide on which side all rows of a group lie, whatever else the corpus holds.

    The group is a document by its id, or what is asked: all answers to one question are together.
    A test share is taken from the training side, so that asking for one moves nothing else.
    """
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    place = int.from_bytes(digest[:8]) / 2**64
    if place < validation_share:
        return "validation"
    return "test" if place < validation_share + test_share else "train"


def _write(
    config: DataConfig, home: Home, stages: Stages, progress: Callable[[str, int], None] | None
) -> DatasetInfo:
    licences: set[str] = set()
    builder = CardBuilder()
    with DatasetWriter(home) as writer:
        for count, item in enumerate(stages.results(), start=1):
            if progress is not None and count % 1000 == 0:
                progress("write", count)
            if isinstance(item, Dropped):
                writer.drop(item)
                builder.drop(item)
            else:
                row = _row(item, config)
                origin = _origin(row, item)
                writer.add(row, origin)
                builder.add(row, origin)
                licences.add(item.licence)
        _check_topics(config.exclude_topics, topics_seen(stages.folder))
        _check_rows(writer, config)
        with_docs = python_docs.NAME in {source.path for source in config.all_sources}
        return writer.finish(
            sources=config.source_names,
            licences=licences,
            masked=stages.masked(),
            python_version=platform.python_version() if with_docs else None,
            parent=config.parent,
            describe=partial(_describe, builder, config),
        )


def _describe(builder: CardBuilder, config: DataConfig, info: DatasetInfo, folder: Path) -> None:
    """Put the data card beside the rows."""
    # Imported here: the plots are needed at the end of a build alone.
    from training.data_card_page import render_card

    card = builder.finish(info, config.model_dump(mode="json", exclude={"executor"}))
    (folder / "card.json").write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (folder / "card.html").write_text(render_card(card), encoding="utf-8")


def _row(item: Document | Conversation, config: DataConfig) -> DatasetRow:
    content: dict[str, object]
    if isinstance(item, Document):
        identifier, document, topic = content_hash(item.text, None), item.id, None
        group, content = item.group or document, {"text": item.text}
    else:
        document, topic = item.document, item.topic
        group = document if item.question is None else f"question:{item.question}"
        more = {name: getattr(item, name) for name in ("chosen", "rejected", "label", "tools")}
        content = {"messages": item.messages, **more}
        identifier = content_hash(None, item.messages, **more)
    return DatasetRow.model_validate(
        {
            "id": identifier,
            "split": split_of(group, config.validation_share, config.seed, config.test_share),
            "sources": (Source(kind="document", id=document),),
            "topic": topic,
            **content,
        }
    )


def _origin(row: DatasetRow, item: Document | Conversation) -> Origin:
    return Origin(
        row=row.id,
        document=row.sources[0].id,
        source=item.source,
        licence=item.licence,
        sha256=item.sha256,
        collection=item.collection,
        language=item.language,
    )


def _check_topics(excluded: tuple[str, ...], known: set[str]) -> None:
    for topic in excluded:
        if topic not in known:
            match = difflib.get_close_matches(topic, known, n=1)
            hint = f"; did you mean {match[0]}?" if match else "."
            raise DataError(f"data.exclude_topics: the corpus has no topic {topic!r}{hint}")


def _check_rows(writer: DatasetWriter, config: DataConfig) -> None:
    names = ", ".join(config.source_names)
    if not writer.counts and not writer.drops:
        raise DataError(f"the corpus is empty: {names} holds no text.")
    if not writer.counts:
        (step, reason), count = writer.drops.most_common(1)[0]
        raise DataError(
            f"cleaning left nothing of {names}: most were dropped by {step} ({reason}, {count} of "
            f"{writer.drops.total()}: {explain(step, reason)}). Loosen that threshold in [data]."
        )
    sides = ("train", "validation", *(("test",) if config.test_share else ()))
    for kind in sorted({kind for _, kind in writer.counts}):
        for side in sides:
            if not writer.counts[side, kind]:
                total = sum(count for (_, k), count in writer.counts.items() if k == kind)
                raise DataError(
                    f"the split leaves no {side} data: all {total} {kind} rows lie on the other "
                    "side. Add documents, or change data.validation_share or data.seed."
                )


def _submitted(stages: Stages) -> str:
    done = ", ".join(f"{name} {count}" for name, count in stages.done_tasks().items())
    job = stages.submitted.read_text(encoding="utf-8").strip()
    return (
        f"the cleaning runs on Slurm, its last job is {job} (tasks done: {done}). Run the same "
        f"command again when it is over; to submit it anew, delete {stages.submitted}."
    )
