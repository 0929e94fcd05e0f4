"""What the files of a source do not say themselves, and how what they hold is named."""

import hashlib
from dataclasses import dataclass
from typing import Literal

from everloop.records import Document
from training.corpus import Dropped

Format = Literal["text", "jsonl", "json", "csv", "parquet", "html", "warc", "pdf"]


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How one source is read.

    Attributes:
        text_field: key or column that holds a text.
        id_field: key or column that holds a document's own id, where there is one.
        groups_by_id: rows of one id stay on one side of the split; else those of one text do.
        prompt_field, completion_field: keys of a question and its answer, where they have others
            than those of a known form.
        document_characters: a text file is cut at the first blank line behind this many.
        takes_any_text: a row of unknown keys is all of its texts, as of an evaluation set.
        collection: name of the source, recorded with every document.
        name: of the file in its source; ids begin with it, so that moving a folder changes none.
        language: of all its documents, where the user says so.
    """

    licence: str
    text_field: str
    document_characters: int
    id_field: str = "id"
    groups_by_id: bool = False
    prompt_field: str | None = None
    completion_field: str | None = None
    takes_any_text: bool = False
    collection: str = ""
    name: str = ""
    language: str | None = None


def make_document(identifier: str, source: str, text: str, options: ReadOptions) -> Document:
    """A document of a source, with the hash of its text."""
    return Document(
        id=identifier,
        text=text,
        source=source,
        licence=options.licence,
        sha256=sha256(text),
        collection=options.collection,
        language=options.language,
    )


def sha256(text: str) -> str:
    """Hash of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def make_dropped(where: str, reason: str, text: str = "") -> Dropped:
    """Something that could not be read."""
    return Dropped(id=where, source=where, step="read", reason=reason, text=text)


def has_lone_surrogate(text: str) -> bool:
    """JSON may escape half of a character, which no encoding can write."""
    return any("\ud800" <= character <= "\udfff" for character in text)
