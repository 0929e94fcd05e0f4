"""Adapters that let datatrove's blocks for texts work on a stream that holds conversations too.

A conversation is a datatrove document whose metadata has `messages`; its text is the turns joined.
"""

from collections.abc import Iterable, Iterator

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.formatters.base import BaseFormatter
from datatrove.pipeline.writers.disk_base import DiskWriter


class EachTurn(PipelineStep):
    """Apply a formatter to a text, or to every turn of a conversation by itself."""

    type = "formatter"

    def __init__(self, formatter: BaseFormatter) -> None:
        super().__init__()
        self.name = formatter.name
        self.formatter = formatter

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
        turns = document.metadata.get("messages")
        if turns is None:
            document.text = self.formatter.format(document.text)
            return
        for turn in turns:
            turn["content"] = self.formatter.format(turn["content"])
        document.text = join_turns(turns)


class TextOnly(BaseFilter):
    """Apply a filter to texts and let conversations pass: its thresholds are made for texts."""

    def __init__(self, inner: BaseFilter, exclusion_writer: DiskWriter | None = None) -> None:
        super().__init__(exclusion_writer)
        self.name = inner.name
        self.inner = inner

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Keep a conversation; ask the inner filter about a text."""
        return True if "messages" in doc.metadata else self.inner.filter(doc)


def join_turns(turns: list[dict[str, str]]) -> str:
    """Write a conversation as one text, for steps that compare or measure it."""
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
