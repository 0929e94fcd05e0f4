"""What a corpus yields before cleaning: documents, conversations, and what could not be read.

The sources (`python_docs`, `readers`) produce these; `cleaning` and `dataset` consume them.
"""

from everloop.records import Document, Message, Record


class Conversation(Record):
    """One question with its answer, or a longer exchange that ends with the answer to learn."""

    id: str
    messages: tuple[Message, ...]
    source: str  # where it was read, as in Document
    licence: str
    document: str  # id of the document that it was made from; its own id if there is none
    topic: str | None = None


class Dropped(Record):
    """Something that does not enter the dataset, with the reason."""

    id: str
    source: str
    step: str  # the step that refused it: read, exclude_topics, or a cleaning step
    reason: str  # from the closed set of that step
    text: str


Item = Document | Conversation | Dropped
