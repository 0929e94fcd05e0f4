"""Language of texts and conversations, by py3langid.

datatrove's own LanguageFilter downloads its model first.
"""

from collections.abc import Collection
from functools import cache
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers.disk_base import DiskWriter
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from everloop.errors import ConfigError
from training.cleaning.config import LanguageConfig

UNDETERMINED = "und"


class LanguageFilter(BaseFilter):
    """Write the language into `metadata["language"]`; refuse languages that are not wanted."""

    name = "language"

    def __init__(self, config: LanguageConfig, exclusion_writer: DiskWriter | None = None) -> None:
        super().__init__(exclusion_writer)
        self.config = config
        _check(config.keep, _identifier().labels if config.keep else ())

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Look at the beginning of a text; an undetermined one stays."""
        language, confidence = _identifier().classify(doc.text[: self.config.characters])
        if confidence < self.config.min_confidence:
            language = UNDETERMINED
        doc.metadata["language"] = language
        if self.config.keep and language not in (*self.config.keep, UNDETERMINED):
            return False, language
        return True


@cache  # 0.4 s to read; every task of a process shares it
def _identifier() -> Any:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _check(wanted: Collection[str], known: Collection[str]) -> None:
    for code in wanted:
        if code not in known:
            raise ConfigError(
                f"data.language.keep: {code!r} is no language that can be recognised; known: "
                f"{', '.join(sorted(known))}."
            )
