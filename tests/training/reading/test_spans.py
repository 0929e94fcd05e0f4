from pathlib import Path

import pytest

from training.reading.compressed import read_lines
from training.reading.spans import Span, split_lines


def test_split_lines_cuts_behind_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"one\n" * 3 + b"three\n" + b"no end")
    assert split_lines(path, 8) == [Span(0, 8, 1), Span(8, 18, 3), Span(18, 24, 5)]
    assert split_lines(path, 1000) == [Span(0, 24, 1)]


@pytest.mark.parametrize("block_bytes", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("span_bytes", [1, 50, 333, 5000])
def test_spans_are_the_whole_file_with_its_line_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int, span_bytes: int
) -> None:
    monkeypatch.setattr("training.reading.spans._BLOCK_BYTES", block_bytes)
    path = tmp_path / "a.jsonl"
    lines = [b"x" * (number * 7 % 40) for number in range(100)]
    path.write_bytes(b"\n".join(lines) + b"\n")
    spans = split_lines(path, span_bytes)
    assert [span.start for span in spans[1:]] == [span.end for span in spans[:-1]]
    assert (spans[0].start, spans[-1].end) == (0, path.stat().st_size)
    found = [(span.first_line, list(read_lines(str(path), span))) for span in spans]
    assert [line for _, part in found for line in part] == lines
    counted = 1
    for first_line, part in found:
        assert first_line == counted
        counted += len(part)


def test_an_empty_file_has_no_span(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"")
    assert split_lines(tmp_path / "a.jsonl", 8) == []
