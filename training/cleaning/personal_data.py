"""Masking of e-mail addresses and telephone numbers."""

from datatrove.pipeline.formatters.base import BaseFormatter

from everloop import pii


class MaskPersonalData(BaseFormatter):
    """Replace personal data by its kind and count what was found.

    datatrove's own PIIFormatter lets telephone numbers pass and puts invented addresses into the
    text, which a model would learn.
    """

    name = "personal data"

    def format(self, text: str) -> str:
        """Mask one text; `masked_<kind>` in the step's statistics counts the finds."""
        masked, found = pii.mask(text)
        for kind, count in found.items():
            self.stat_update(f"masked_{kind}", value=count, unit="find")
        return masked
