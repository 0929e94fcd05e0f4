import gzip
from pathlib import Path

import pytest

from everloop.errors import DataError
from everloop.records import Document
from training.corpus import Dropped
from training.reading.options import ReadOptions
from training.reading.web import read_html, read_warc

OPTIONS = ReadOptions("MIT", "text", 100, name="page")
PROSE = (
    "The quick brown fox jumps over the lazy dog, and nobody has ever asked the dog about it. "
    "This is the main text of the page, which is what a reader came here for. Zürich is a city."
)
PAGE = f"""<html><head><title>A page</title></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/shop">Shop</a></li></ul></nav>
<article><h1>About the fox</h1><p>{PROSE}</p><p>{PROSE.replace("fox", "cat")}</p></article>
<footer>Copyright. <a href="/privacy">Privacy policy</a> We use cookies.</footer>
</body></html>"""


def archive(folder: Path, *records: tuple[str, str, bytes]) -> Path:
    """A web archive of (type, content type, content), written by hand."""
    content = b""
    for number, (kind, content_type, body) in enumerate(records):
        if kind == "response":
            body = f"HTTP/1.0 200 OK\r\nContent-Type: {content_type}\r\n\r\n".encode() + body
            content_type = "application/http; msgtype=response"
        headers = (
            f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: https://a.example/{number}\r\n"
            f"WARC-Record-ID: <urn:uuid:{number}>\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        content += gzip.compress(headers.encode() + body + b"\r\n\r\n")
    path = folder / "a.warc.gz"
    path.write_bytes(content)
    return path


def test_read_html_takes_the_main_text_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text(PAGE, encoding="utf-8")
    (item,) = read_html(str(path), OPTIONS)
    assert isinstance(item, Document)
    assert PROSE in item.text
    assert "Shop" not in item.text and "cookies" not in item.text
    assert (item.id, item.source) == ("page", str(path))


def test_read_html_reads_the_encoding_that_the_page_declares(tmp_path: Path) -> None:
    page = PAGE.replace("<head>", '<head><meta charset="iso-8859-1">')
    (tmp_path / "a.html").write_bytes(page.encode("iso-8859-1"))
    (item,) = read_html(str(tmp_path / "a.html"), OPTIONS)
    assert isinstance(item, Document)
    assert "Zürich is a city." in item.text


def test_read_html_drops_a_page_without_text(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<html><body><img src='a.png'></body></html>")
    (item,) = read_html(str(tmp_path / "a.html"), OPTIONS)
    assert isinstance(item, Dropped)
    assert item.reason == "no_main_text"


def test_read_warc_reads_pages_and_extracted_texts(tmp_path: Path) -> None:
    path = archive(
        tmp_path,
        ("response", "text/html; charset=utf-8", PAGE.encode()),
        ("request", "application/http", b"GET / HTTP/1.0"),
        ("conversion", "text/plain", b"already a text"),
        ("response", "image/png", b"\x89PNG"),
    )
    page, text, image = read_warc(str(path), OPTIONS)
    assert isinstance(page, Document) and isinstance(text, Document)
    assert PROSE in page.text
    assert (page.id, page.source) == ("https://a.example/0", f"{path}:1")
    assert (text.text, text.id) == ("already a text", "https://a.example/2")
    assert isinstance(image, Dropped)
    assert (image.reason, image.text) == ("content_type", "image/png")


def test_read_warc_refuses_other_files(tmp_path: Path) -> None:
    (tmp_path / "a.warc").write_bytes(b"this is no archive\n" * 9)
    with pytest.raises(DataError, match=r"a\.warc is no readable web archive"):
        list(read_warc(str(tmp_path / "a.warc"), OPTIONS))
