"""The plain records that cross the borders between training, serving, monitoring and feedback."""

import hashlib
import json
from collections.abc import Callable
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Record(BaseModel):
    """Base of every record: immutable, compared by value, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FunctionCall(Record):
    """What a tool call calls."""

    name: str
    arguments: str  # JSON, as the model wrote it


class ToolCall(Record):
    """A call that the assistant asks for."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Record):
    """One turn of a conversation; what a turn does not have is not written."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    name: str | None = None  # of the speaker, for templates that write it
    tool_calls: tuple[ToolCall, ...] | None = None  # of an assistant
    tool_call_id: str | None = None  # of a tool: the call that it answers

    def map_text(self, change: Callable[[str], str]) -> Self:
        """The same turn with every text that somebody wrote changed: content and arguments."""
        update: dict[str, object] = {"content": change(self.content)}
        if self.tool_calls is not None:
            update["tool_calls"] = tuple(_map_arguments(call, change) for call in self.tool_calls)
        return self.model_copy(update=update)

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if value is not None}


def _map_arguments(call: ToolCall, change: Callable[[str], str]) -> ToolCall:
    function = call.function
    changed = function.model_copy(update={"arguments": change(function.arguments)})
    return call.model_copy(update={"function": changed})


class Source(Record):
    """Where a dataset row comes from."""

    kind: Literal["document", "interaction", "feedback", "model"]
    id: str


class Document(Record):
    """One text of a corpus, before or after cleaning."""

    id: str
    text: str
    source: str  # where it was read: a module's name, or a file's path and line
    licence: str
    sha256: str  # of the text as it was read, in UTF-8
    collection: str = ""  # the source of the run's TOML that it belongs to
    language: str | None = None  # ISO 639-1, or und; found by cleaning
    group: str | None = None  # decides its side of the split; None where its id does


RowKind = Literal["text", "chat", "preference", "rated"]
Split = Literal["train", "validation", "test", "holdout"]


class DatasetRow(Record):
    """One training example; which fields are set decides its kind.

    - text: `text` alone.
    - chat: `messages` end with the answer to learn.
    - preference: `messages` are the prompt, `chosen` is a better continuation than `rejected`.
    - rated: `messages` end with an answer that `label` approves (True) or disapproves.
    """

    id: str  # content_hash of everything that is learnt
    split: Split
    sources: tuple[Source, ...]
    text: str | None = None
    messages: tuple[Message, ...] | None = None
    tools: tuple[dict[str, Any], ...] | None = None  # that the conversation may call
    topic: str | None = None
    chosen: tuple[Message, ...] | None = None
    rejected: tuple[Message, ...] | None = None
    label: bool | None = None

    @property
    def kind(self) -> RowKind:
        """What the row teaches."""
        if self.chosen is not None:
            return "preference"
        if self.label is not None:
            return "rated"
        return "text" if self.messages is None else "chat"

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
    counts: dict[str, dict[str, int]]  # split -> kind of row -> rows
    dropped: dict[str, dict[str, int]]  # step -> reason -> documents or rows
    masked: dict[str, int]  # kind of personal data -> finds
    sources: tuple[str, ...]  # corpora, files and folders as they were named
    licences: tuple[str, ...]
    python_version: str | None  # of the documentation, where it is a source
    parent: str | None  # dataset version that this one extends
    files: dict[str, str] = {}  # name of every other file of the folder -> its SHA-256
    checksum: str = ""  # SHA-256 of this record without its checksum


class Interaction(Record):
    """One answer, as it is logged. Times are seconds; created_at is Unix time.

    Attributes:
        id: the completion's id, as the client saw it. A reply with several choices is as many
            interactions: the first has the id itself, the others the id and -1, -2, …
        answer: what the model wrote, tool calls in its own notation included; None when store was
            false.
    """

    id: str
    created_at: float
    route: Literal["chat", "completions"]
    conversation_id: str | None
    model_version: str  # the tag that answered, name:version
    messages: tuple[Message, ...]  # empty when store was false
    tools: tuple[dict[str, Any], ...] | None = None  # that the answer could call
    answer: str | None
    finish_reason: Literal["stop", "length", "abort", "error", "timeout"]
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


# Metrics that mean something here; whoever gives feedback may have others.
METRICS = ("thumbs", "comment", "demonstration")
Rating = Literal["positive", "negative", "comment", "demonstration", "other"]


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

    @property
    def rating(self) -> Rating:
        """What kind of word this is.

        A thumb is a boolean, or a number of which more than zero is good.
        """
        if self.metric_name == "demonstration":
            return "demonstration"
        if self.metric_name == "comment":
            return "comment"
        if self.metric_name != "thumbs" or isinstance(self.value, str):
            return "other"
        return "positive" if self.value > 0 else "negative"


def content_hash(
    text: str | None,
    messages: tuple[Message, ...] | None,
    *,
    chosen: tuple[Message, ...] | None = None,
    rejected: tuple[Message, ...] | None = None,
    label: bool | None = None,
    tools: tuple[dict[str, Any], ...] | None = None,
) -> str:
    """The id of a dataset row: SHA-256 over its content, so that equal rows have equal ids."""
    content: list[object] = [text, _turns(messages)]
    if chosen is not None or rejected is not None:
        content += [_turns(chosen), _turns(rejected)]
    if label is not None:
        content.append(label)
    if tools:
        content.append({"tools": tools})
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode("utf-8")).hexdigest()


def _turns(messages: tuple[Message, ...] | None) -> list[list[object]] | None:
    """Role and content of each turn, and what else it holds if it holds more than these."""
    if messages is None:
        return None
    turns: list[list[object]] = []
    for message in messages:
        more = message.model_dump(
            mode="json", exclude={"role", "content"}, exclude_none=True, exclude_defaults=True
        )
        turns.append([message.role, message.content, *([more] if more else [])])
    return turns


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
