"""The length rule in characters, before anything counts words."""

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers.disk_base import DiskWriter


class LengthFilter(BaseFilter):
    """Drop texts that are too short to teach anything, or too long for the steps that follow."""

    name = "length"

    def __init__(
        self, min_characters: int, max_characters: int, exclusion_writer: DiskWriter | None = None
    ) -> None:
        super().__init__(exclusion_writer)
        self.min_characters = min_characters
        self.max_characters = max_characters

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Measure the text without the space around it."""
        length = len(doc.text.strip())
        if length < self.min_characters:
            return False, "too_short"
        return (False, "too_long") if length > self.max_characters else True
