from pathlib import Path

import pytest

from everloop.errors import ConfigError, DataError
from everloop.records import Document
from training.corpus import Dropped
from training.reading.options import ReadOptions
from training.reading.pdf import read_pdf

OPTIONS = ReadOptions("MIT", "text", 4000, name="paper")


def write_pdf(path: Path, *pages: str) -> Path:
    """A PDF with one line of text per page, built by hand."""
    pytest.importorskip("pypdf")
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count %d /Kids [%s] >>"
        % (len(pages), b" ".join(b"%d 0 R" % (4 + 2 * at) for at in range(len(pages)))),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for at, text in enumerate(pages):
        drawn = b"BT /F1 12 Tf 72 720 Td (%s) Tj ET" % text.encode()
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % (5 + 2 * at)
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawn), drawn))
    content, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    content += b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\n" % (
        len(objects) + 1, table, len(objects) + 1,
    ) + b"startxref\n%d\n%%%%EOF\n" % len(content)  # fmt: skip
    path.write_bytes(content)
    return path


def test_read_pdf_joins_the_text_of_its_pages(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf", "The first page.", "The second page.")
    (item,) = read_pdf(str(path), OPTIONS)
    assert isinstance(item, Document)
    assert item.text == "The first page.\nThe second page."
    assert (item.id, item.source) == ("paper#0", f"{path}:1")


def test_read_pdf_drops_pages_without_a_text_layer(tmp_path: Path) -> None:
    (item,) = read_pdf(str(write_pdf(tmp_path / "a.pdf", "")), OPTIONS)
    assert isinstance(item, Dropped)
    assert item.reason == "no_text_layer"


def test_read_pdf_names_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pypdf")
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4 and nothing")
    with pytest.raises(DataError, match=r"a\.pdf is no readable PDF"):
        list(read_pdf(str(tmp_path / "a.pdf"), OPTIONS))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"PDF files need pypdf.*everloop\[pdf\]"):
        list(read_pdf(str(tmp_path / "a.pdf"), OPTIONS))
