"""Web pages, single or in archives: the main text, without menus, headers and footers."""

import logging
from collections.abc import Iterator

import trafilatura
from warcio.archiveiterator import ArchiveIterator
from warcio.exceptions import ArchiveLoadFailed
from warcio.recordloader import ArcWarcRecord

from everloop.errors import DataError
from training.corpus import Item
from training.reading.compressed import opened
from training.reading.options import ReadOptions, make_document, make_dropped

_HTML = ("text/html", "application/xhtml+xml")


def read_html(location: str, options: ReadOptions) -> Iterator[Item]:
    """Read one page; its encoding is the one that it declares, or UTF-8.

    Raises:
        DataError: the file cannot be read.
    """
    with opened(location) as file:
        content = file.read()
    yield _page(options.name, location, content, options)


def read_warc(location: str, options: ReadOptions) -> Iterator[Item]:
    """Read the pages of a web archive (.warc), or its extracted texts (.wet).

    Raises:
        DataError: the file is no archive, or is damaged.
    """
    with opened(location) as file:
        try:
            for number, record in enumerate(ArchiveIterator(file), start=1):
                yield from _record(record, f"{location}:{number}", options)
        except ArchiveLoadFailed as error:
            raise DataError(f"{location} is no readable web archive ({error}).") from error


def _record(record: ArcWarcRecord, where: str, options: ReadOptions) -> Iterator[Item]:
    if record.rec_type not in ("response", "resource", "conversion"):
        return  # requests and metadata hold no page
    url = record.rec_headers.get_header("WARC-Target-URI") or where
    headers = record.http_headers if record.rec_type == "response" else record.rec_headers
    content_type = (headers.get_header("Content-Type") or "") if headers else ""
    content = record.content_stream().read()
    if record.rec_type == "conversion" or content_type.startswith("text/plain"):
        yield make_document(url, where, content.decode("utf-8", errors="replace"), options)
    elif content_type.startswith(_HTML):
        yield _page(url, where, content, options)
    else:
        yield make_dropped(where, "content_type", content_type)


def _page(identifier: str, where: str, content: bytes, options: ReadOptions) -> Item:
    # It warns of every page that it cannot use; these are counted as dropped here.
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    text = trafilatura.extract(
        content, favor_precision=True, include_comments=False, deduplicate=True
    )
    if not text:
        return make_dropped(where, "no_main_text", content[:2000].decode("utf-8", "replace"))
    return make_document(identifier, where, text, options)
