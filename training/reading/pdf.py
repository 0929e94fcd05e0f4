"""Text of PDF files; what is only a picture of text is not read."""

import importlib.util
import logging
from collections.abc import Iterator

from everloop.errors import ConfigError, DataError
from training.corpus import Item
from training.reading.compressed import opened
from training.reading.options import ReadOptions, make_dropped
from training.reading.text import cut_text


def read_pdf(location: str, options: ReadOptions) -> Iterator[Item]:
    """Read the pages of a PDF as one text, cut like a text file; `source` names the page.

    Raises:
        DataError: the file is no PDF, is damaged or encrypted.
        ConfigError: pypdf is not installed.
    """
    if importlib.util.find_spec("pypdf") is None:
        raise ConfigError(
            f"{location}: PDF files need pypdf. Install it: pip install 'everloop[pdf]'."
        )
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    logging.getLogger("pypdf").setLevel(logging.ERROR)
    with opened(location) as file:
        try:
            pages = [page.extract_text() for page in PdfReader(file).pages]
        except PyPdfError as error:
            raise DataError(f"{location} is no readable PDF ({error}).") from error
    if not any(page.strip() for page in pages):
        yield make_dropped(location, "no_text_layer")
        return
    lines = ((number, line) for number, page in enumerate(pages, 1) for line in page.split("\n"))
    yield from cut_text(lines, location, options)
