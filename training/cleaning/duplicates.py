"""Exact duplicates."""

import hashlib

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers.disk_base import DiskWriter


class ExactDuplicateFilter(BaseFilter):
    """Keep the first of all documents that differ in nothing but white space.

    It remembers 16 bytes per document and sees one stream: over several tasks of an executor,
    datatrove's ExactDedupSignature stages, which meet on disk, do the same.
    """

    name = "exact duplicates"

    def __init__(self, exclusion_writer: DiskWriter | None = None) -> None:
        super().__init__(exclusion_writer)
        self._seen: set[bytes] = set()

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Refuse a text that was seen before."""
        text = " ".join(doc.text.split())
        digest = hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
        if digest in self._seen:
            return False, "duplicate"
        self._seen.add(digest)
        return True
