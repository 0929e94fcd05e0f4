"""Documents, conversations and drops in datatrove's form, and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datatrove.data import Document as TroveDocument
from datatrove.pipeline.writers import JsonlWriter

from everloop.records import Document, Message
from training.cleaning.turns import TURN_FIELDS, all_turns, join_turns
from training.corpus import Conversation, Dropped

# datatrove's words for its reasons, where ours say more; the first one says the opposite there.
_REASONS = {
    "enough_stop_words": "too_few_stop_words",
    "document_removed_with_badwords": "blocked_word",
}


def to_datatrove(item: Document | Conversation) -> TroveDocument:
    """Carry a document or conversation into datatrove's form; all of its fields go along."""
    if isinstance(item, Document):
        metadata = item.model_dump(exclude={"id", "text"}, exclude_none=True)
        return TroveDocument(text=item.text, id=item.id, metadata=metadata)
    metadata = item.model_dump(exclude={"id"}, exclude_none=True)
    for field in TURN_FIELDS:
        if field in metadata:
            metadata[field] = list(metadata[field])
    return TroveDocument(text=join_turns(all_turns(metadata)), id=item.id, metadata=metadata)


def from_datatrove(
    identifier: str, text: str, metadata: Mapping[str, Any]
) -> Document | Conversation:
    """The way back; fields that a step added are left behind."""
    if "messages" not in metadata:
        known = _known(metadata, Document)
        return Document(id=identifier, text=text, **known)
    known = _known(metadata, Conversation)
    for field in TURN_FIELDS:
        if field in known:
            known[field] = tuple(Message(**turn) for turn in known[field])
    return Conversation(id=identifier, **known)


def _known(metadata: Mapping[str, Any], record: type[Document | Conversation]) -> dict[str, Any]:
    return {name: metadata[name] for name in record.model_fields if name in metadata}


def drop_writer(folder: Path, step: str) -> JsonlWriter:
    """A writer of what a step drops: one line per `Dropped`, in `<folder>/<step>/<rank>.jsonl`."""

    def adapt(_: JsonlWriter, document: TroveDocument) -> dict[str, Any]:
        return as_dropped(step, document).model_dump()

    return JsonlWriter(str(folder / step), compression=None, adapter=adapt)


def as_dropped(step: str, document: TroveDocument) -> Dropped:
    """The record of a document that a step dropped."""
    reason = str(document.metadata["filter_reason"]).removeprefix("gopher_")
    return Dropped(
        id=document.id,
        source=document.metadata["source"],
        step=step,
        reason=_REASONS.get(reason, reason),
        text=document.text,
        detail=document.metadata.get("detail", ""),
        collection=document.metadata.get("collection", ""),
    )
