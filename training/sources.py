"""The sources of a corpus: what the TOML names, found, and read by the reader of its format.

    sources = ["python-docs", "notes/", "chats/*.jsonl.gz", "s3://bucket/pages/"]

or, where a source has a name, licence or field of its own, one `[[data.source]]` table for each.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Literal

from fsspec.core import url_to_fs
from pydantic import Field, model_validator

from everloop.errors import DataError
from everloop.settings import Config
from training import python_docs
from training.corpus import Item
from training.reading.compressed import COMPRESSED_SUFFIXES, content_suffix
from training.reading.options import Format, ReadOptions, make_dropped
from training.reading.spans import Span, split_lines

logger = logging.getLogger(__name__)

SUFFIXES: dict[str, Format] = {
    ".txt": "text", ".md": "text", ".markdown": "text", ".rst": "text", ".jsonl": "jsonl",
    ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet",
    ".html": "html", ".htm": "html", ".xhtml": "html", ".warc": "warc", ".wet": "warc",
    ".pdf": "pdf",
}  # fmt: skip


class SourceConfig(Config):
    """[[data.source]]: one source of the corpus, a path or a dataset of the Hugging Face hub."""

    name: str | None = Field(None, description="Shown in the data card; the path's last part.")
    path: str | None = Field(
        None, description="File, folder, glob pattern, or URL of any file system fsspec knows."
    )
    dataset: str | None = Field(None, description="Dataset of the Hugging Face hub, by name.")
    subset: str | None = Field(None, description="Of the dataset, where it has several.")
    dataset_split: str = Field("train", description="Of the dataset.")
    format: Literal["auto", Format] = Field("auto", description="auto goes by the file's suffix.")
    text_field: str | None = Field(None, description="Key or column of the text [data.text_field].")
    id_field: str = Field(
        "id",
        description="Key or column of a document's own id; where it is named, rows of one id stay "
        "on one side of the split.",
    )
    prompt_field: str | None = Field(
        None, description="Key or column of a question, with completion_field for its answer."
    )
    completion_field: str | None = Field(None, description="Key or column of its answer.")
    licence: str | None = Field(None, description="Of its documents [data.licence].")
    language: str | None = Field(None, description="Of its documents; recognised if absent.")

    @model_validator(mode="after")
    def _has_one_place(self) -> "SourceConfig":
        if (self.path is None) == (self.dataset is None):
            raise ValueError("a source has either a path or a dataset")
        if (self.prompt_field is None) != (self.completion_field is None):
            raise ValueError("prompt_field and completion_field are given together")
        return self


@dataclass(frozen=True, slots=True)
class Input:
    """One file, or one other thing, that is read as a whole.

    Attributes:
        kind: its format, python-docs, hub, or None for a file of another type.
        size_bytes: as it lies there; 0 where that is not known.
        span: the part of the file that is meant; None for the whole.
    """

    location: str
    kind: str | None
    size_bytes: int
    options: ReadOptions
    source: SourceConfig
    span: Span | None = None

    def divided(self, span_bytes: float) -> "list[Input]":
        """The parts of a large file of JSON lines; itself where it is small or of another kind."""
        is_local = self.kind == "jsonl" and Path(self.location).is_file()
        is_packed = PurePosixPath(self.location).suffix.lower() in COMPRESSED_SUFFIXES
        if not is_local or is_packed or self.size_bytes < 2 * span_bytes:
            return [self]
        return [
            replace(self, span=span, size_bytes=span.end - span.start)
            for span in split_lines(Path(self.location), span_bytes)
        ]


def find_inputs(
    sources: Sequence[SourceConfig], options: ReadOptions, where: str = "data.sources"
) -> list[Input]:
    """List what the sources hold, in their order and by name within each.

    Args:
        options: of a source that has none of its own.
        where: key that names the sources, for messages.

    Raises:
        DataError: a source is missing, or holds no file that can be read.
    """
    try:
        return [found for source in sources for found in _inputs(source, _own(source, options))]
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def read_input(found: Input, seed: int) -> Iterator[Item]:
    """Read one input; files of other types are yielded as dropped.

    Raises:
        DataError: it cannot be read.
    """
    if found.kind is None:
        yield make_dropped(found.location, "file_type")
    elif found.kind == python_docs.NAME:
        for item in python_docs.read(seed):
            yield item.model_copy(update={"collection": found.options.collection})
    else:
        yield from _reader(found)(found.location, found.options)


def _reader(found: Input) -> Callable[[str, ReadOptions], Iterator[Item]]:
    """The reader of a format; what it needs is imported with it (trafilatura takes 0.4 s)."""
    match found.kind:
        case "text":
            from training.reading.text import read_text as reader
        case "jsonl":
            from training.reading.jsonl import read_jsonl

            return partial(read_jsonl, span=found.span)
        case "json":
            from training.reading.json_file import read_json as reader
        case "csv":
            from training.reading.tables import read_csv as reader
        case "parquet":
            from training.reading.tables import read_parquet as reader
        case "html":
            from training.reading.web import read_html as reader
        case "warc":
            from training.reading.web import read_warc as reader
        case "pdf":
            from training.reading.pdf import read_pdf as reader
        case _:
            from training.reading.hub import read_hub

            source = found.source
            return partial(read_hub, source.subset, source.dataset_split)
    return reader


def _own(source: SourceConfig, options: ReadOptions) -> ReadOptions:
    place = source.path or source.dataset or ""
    return replace(
        options,
        licence=source.licence or options.licence,
        text_field=source.text_field or options.text_field,
        id_field=source.id_field,
        groups_by_id="id_field" in source.model_fields_set,
        prompt_field=source.prompt_field,
        completion_field=source.completion_field,
        collection=source.name or PurePosixPath(place.rstrip("/")).name or place,
        language=source.language,
    )


def _inputs(source: SourceConfig, options: ReadOptions) -> Iterator[Input]:
    if source.dataset is not None:
        yield Input(source.dataset, "hub", 0, options, source)
        return
    assert source.path is not None
    if source.path == python_docs.NAME:
        yield Input(source.path, python_docs.NAME, 0, options, source)
        return
    files = _find(source.path)
    kinds = [_kind(file, source) for file, _ in files]
    if not any(kinds):
        raise DataError(
            f"{source.path} holds no supported file; supported: "
            f"{', '.join(SUFFIXES)}, plain or with {', '.join(COMPRESSED_SUFFIXES)} behind. "
            "Name the format of other files in [[data.source]]."
        )
    others = [file for (file, _), kind in zip(files, kinds, strict=True) if kind is None]
    if others:
        logger.warning(
            "%s: left out %d of %d files, whose type is not read, such as %s; format in "
            "[[data.source]] names the type of a source's files",
            source.path, len(others), len(files), others[0],
        )  # fmt: skip
    root = _root(source.path)
    for (file, size_bytes), kind in zip(files, kinds, strict=True):
        inside = file.removeprefix(root).lstrip("/")
        name = f"{options.collection}/{inside}" if inside else options.collection
        yield Input(file, kind, size_bytes, replace(options, name=name), source)


def _kind(location: str, source: SourceConfig) -> str | None:
    return SUFFIXES.get(content_suffix(location)) if source.format == "auto" else source.format


def _find(path: str) -> list[tuple[str, int]]:
    """Files with their sizes: of a file, a folder, a glob pattern, or a URL."""
    if "://" in path or "::" in path:
        return _find_remote(path)
    local = Path(path)
    if local.is_dir():
        found = sorted(
            file for file in local.rglob("*") if file.is_file() and not _hidden(file, local)
        )
    elif local.exists():
        found = [local]
    else:
        matches = Path(local.anchor).glob(str(local.relative_to(local.anchor)))
        found = sorted(match for match in matches if match.is_file())
    if not found:
        what = "is a folder without files" if local.is_dir() else "does not exist, nor match a file"
        raise DataError(f"{path} {what}.")
    return [(str(file), file.stat().st_size) for file in found]


def _find_remote(url: str) -> list[tuple[str, int]]:
    try:
        system, path = url_to_fs(url)
        is_pattern = any(sign in path for sign in "*?[")
        found = system.glob(path, detail=True) if is_pattern else system.find(path, detail=True)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{url} cannot be opened ({error}).") from error
    files = [
        (system.unstrip_protocol(name), int(entry.get("size") or 0))
        for name, entry in sorted(found.items())
        if entry["type"] == "file"
    ]
    if not files:
        raise DataError(f"{url} does not exist and matches no file.")
    return files


def _root(path: str) -> str:
    """The part of a path that all of its files have in common: the folder, or before a pattern."""
    parts = PurePosixPath(path).parts
    fixed = list(takewhile(lambda part: not any(sign in part for sign in "*?["), parts))
    return str(PurePosixPath(*fixed)) if fixed and "://" not in path else path


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
