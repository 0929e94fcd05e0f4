"""Conversations that contain the markers of the chat format themselves."""

from collections.abc import Sequence

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers.disk_base import DiskWriter

from training.cleaning.turns import all_turns


class SpecialTokenFilter(BaseFilter):
    """Drop conversations in whose turns a special token is written out.

    A trainer renders a conversation to text before it is encoded, so a written `<|im_end|>` would
    end the turn there and what follows could pass for another speaker. Texts are encoded with
    special tokens switched off and need no such rule.
    """

    name = "special tokens"

    def __init__(self, tokens: Sequence[str], exclusion_writer: DiskWriter | None = None) -> None:
        super().__init__(exclusion_writer)
        self.tokens = tuple(tokens)

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Look for the tokens in every turn."""
        turns = all_turns(doc.metadata)
        if any(token in turn["content"] for turn in turns for token in self.tokens):
            return False, "special_token"
        return True
