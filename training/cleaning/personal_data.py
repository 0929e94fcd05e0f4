"""Masking of personal data in texts and turns."""

from collections.abc import Collection

from datatrove.pipeline.formatters.base import BaseFormatter

from everloop import pii


class MaskPersonalData(BaseFormatter):
    """Replace personal data by its kind and count what was found.

    datatrove's own PIIFormatter knows e-mail and IPv4 addresses alone, and puts invented ones into
    the text, which a model would learn.

    Args:
        kinds: of `everloop.pii.KINDS`.
    """

    name = "personal data"

    def __init__(self, kinds: Collection[str] = pii.KINDS) -> None:
        super().__init__()
        self.kinds = tuple(kinds)

    def format(self, text: str) -> str:
        """Mask one text; `masked_<kind>` in the step's statistics counts the finds."""
        masked, found = pii.mask(text, self.kinds)
        for kind, count in found.items():
            self.stat_update(f"masked_{kind}", value=count, unit="find")
        return masked
