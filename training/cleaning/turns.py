"""Adapters that let datatrove's blocks for texts work on a stream that holds conversations too.

A conversation is a datatrove document whose metadata has `messages`, and perhaps `chosen` and
`rejected`; its text is all turns joined.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.formatters.base import BaseFormatter
from datatrove.pipeline.writers.disk_base import DiskWriter

TURN_FIELDS = ("messages", "chosen", "rejected")


class EachTurn(PipelineStep):
    """Apply a formatter to a text, or to every turn of a conversation by itself."""

    type = "formatter"

    def __init__(self, formatter: BaseFormatter) -> None:
        super().__init__()
        self.name = formatter.name
        self.formatter = formatter
        self.stats = formatter.stats  # what the formatter counts is what this step counted

    def run(
        self,
        data: Iterable[Document],
        rank: int = 0,  # noqa: ARG002 - datatrove's interface
        world_size: int = 1,  # noqa: ARG002 - datatrove's interface
    ) -> Iterator[Document]:
        """Format the documents of a stream, one by one."""
        for document in data:
            with self.track_time():
                self._format(document)
            yield document

    def _format(self, document: Document) -> None:
        turns = all_turns(document.metadata)
        for turn in turns:
            turn["content"] = self.formatter.format(turn["content"])
            for call in turn.get("tool_calls") or ():
                function = call["function"]
                function["arguments"] = self.formatter.format(function["arguments"])
        document.text = join_turns(turns) if turns else self.formatter.format(document.text)


class TextOnly(BaseFilter):
    """Apply a filter to texts and let conversations pass: its thresholds are made for texts."""

    def __init__(self, inner: BaseFilter, exclusion_writer: DiskWriter | None = None) -> None:
        super().__init__(exclusion_writer)
        self.name = inner.name
        self.inner = inner

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Keep a conversation; ask the inner filter about a text."""
        return True if "messages" in doc.metadata else self.inner.filter(doc)


def all_turns(metadata: dict[str, Any]) -> list[dict[str, Any]]:
    """The turns of a conversation, those of both continuations included; none of a text."""
    return [turn for field in TURN_FIELDS for turn in metadata.get(field) or ()]


def identity(document: Document) -> str:
    """What two documents must share to be the same: the text, and of turns what they are for
    and what they could call.
    """
    counts = [len(document.metadata.get(field) or ()) for field in TURN_FIELDS]
    if not any(counts):
        return document.text
    tools = document.metadata.get("tools")
    shown = f" {json.dumps(tools)}" if tools else ""
    return f"{document.text}\n{counts} {document.metadata.get('label')}{shown}"


def join_turns(turns: list[dict[str, Any]]) -> str:
    """Write a conversation as one text, for steps that compare or measure it."""
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
