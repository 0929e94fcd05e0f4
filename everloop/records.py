"""The plain records that cross the borders between training, serving, monitoring and feedback."""

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base of every record: immutable, compared by value, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Source(Record):
    """Where a dataset row comes from."""

    kind: Literal["document", "interaction", "feedback"]
    id: str


class Document(Record):
    """One text of a corpus, before or after cleaning."""

    id: str
    text: str
    source: str  # where it was read: a module's name, or a file's path and line
    licence: str
    sha256: str  # of the text as it was read, in UTF-8


class DatasetRow(Record):
    """One training example: plain text, or a conversation that ends with the answer to learn."""

    id: str  # content_hash of text and messages
    split: Literal["train", "validation", "holdout"]
    sources: tuple[Source, ...]
    text: str | None = None
    messages: tuple[Message, ...] | None = None
    topic: str | None = None

    @property
    def line(self) -> str:
        """The row as it stands in a dataset's file, without the line's end."""
        return self.model_dump_json(exclude_none=True)

    @property
    def sha256(self) -> str:
        """Hash of the line: a leaf of the dataset's Merkle tree."""
        return hashlib.sha256(self.line.encode("utf-8")).hexdigest()


class DatasetInfo(Record):
    """What is known about a dataset version: the content of its dataset.json."""

    id: str  # ds- and the first 12 digits of merkle_root
    merkle_root: str  # over the SHA-256 of every line of rows.jsonl
    rows: int
    counts: dict[str, dict[str, int]]  # split -> kind (text or chat) -> rows
    dropped: dict[str, dict[str, int]]  # step -> reason -> documents or rows
    masked: dict[str, int]  # kind of personal data -> finds
    sources: tuple[str, ...]  # corpora, files and folders as they were named
    licences: tuple[str, ...]
    python_version: str | None  # of the documentation, where it is a source
    parent: str | None  # dataset version that this one extends


class Interaction(Record):
    """One answered request, as it is logged. Times are seconds; created_at is Unix time."""

    id: str  # the completion's id, as the client saw it
    created_at: float
    route: Literal["chat", "completions"]
    conversation_id: str | None
    model_version: str  # the tag that answered, name:version
    messages: tuple[Message, ...]  # empty when store was false
    answer: str | None  # None when store was false
    finish_reason: Literal["stop", "length", "abort", "error"]
    prompt_tokens: int
    completion_tokens: int
    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None
    queue_seconds: float
    ttft_seconds: float | None
    e2e_seconds: float
    metadata: dict[str, str] = {}


class Feedback(Record):
    """Something said about an interaction, or about a whole conversation (episode), afterwards.

    Attributes:
        metric_name: `comment` (value is text), `demonstration` (value is the ideal answer), or any
            metric whose value is a boolean or a number; `thumbs` is the one the loop learns from.
        source: who said it.
    """

    id: str
    created_at: float
    inference_id: str | None
    episode_id: str | None
    metric_name: str
    value: bool | float | str
    tags: dict[str, str] = {}
    source: Literal["HUMAN", "LLM_JUDGE", "CODE"] = "HUMAN"


def content_hash(text: str | None, messages: tuple[Message, ...] | None) -> str:
    """The id of a dataset row: SHA-256 over its content, so that equal rows have equal ids."""
    turns = None if messages is None else [[message.role, message.content] for message in messages]
    return hashlib.sha256(json.dumps([text, turns], ensure_ascii=False).encode("utf-8")).hexdigest()


def merkle_root(hashes: list[str]) -> str:
    """Fold the sorted hexadecimal hashes of all rows into one, the identity of a dataset.

    An odd node at the end of a level moves up unchanged; no rows give the hash of nothing.
    """
    level = [bytes.fromhex(value) for value in sorted(hashes)] or [hashlib.sha256(b"").digest()]
    while len(level) > 1:
        paired = [
            hashlib.sha256(left + right).digest()
            for left, right in zip(level[::2], level[1::2], strict=False)
        ]
        level = paired + (level[-1:] if len(level) % 2 else [])
    return level[0].hex()
