"""What a corpus yields before cleaning: documents, conversations, and what could not be read.

The sources (`python_docs`, `readers`) produce these; `cleaning` and `dataset` consume them.
"""

from typing import Any

from everloop.records import Document, Message, Record


class Conversation(Record):
    """Turns to learn from: an exchange that ends with an answer, a preference or a rating.

    Attributes:
        messages: end with the answer; of a preference they are the prompt.
        chosen, rejected: the better and the worse continuation.
        label: whether the answer is approved.
        tools: that the assistant could call.
        source: where it was read, as in Document.
        document: id of the document that it was made from; its own id if there is none.
        question: decides its side of the split; None where the document does.
        sha256: of the content as it was read; that of the document's text is the document's.
    """

    id: str
    messages: tuple[Message, ...]
    source: str
    licence: str
    document: str
    question: str | None = None
    topic: str | None = None
    chosen: tuple[Message, ...] | None = None
    rejected: tuple[Message, ...] | None = None
    label: bool | None = None
    tools: tuple[dict[str, Any], ...] | None = None
    sha256: str = ""
    collection: str = ""
    language: str | None = None


class Dropped(Record):
    """Something that does not enter the dataset, with the reason."""

    id: str
    source: str
    step: str  # the step that refused it: read, exclude_topics, or a cleaning step
    reason: str  # from the closed set of that step
    text: str
    detail: str = ""  # what exactly was found: the repeated document, the word sequence
    collection: str = ""  # as in Document


class Origin(Record):
    """Where a row comes from: a line of documents.jsonl, in the order of the rows."""

    row: str  # id of the row
    document: str
    source: str
    licence: str
    sha256: str  # of the content as it was read
    collection: str
    language: str | None


Item = Document | Conversation | Dropped
