from pathlib import Path

import pytest
from datatrove.data import Document

from everloop.errors import ConfigError
from training.cleaning.blocklist import BlocklistFilter


@pytest.mark.parametrize(
    ("text", "is_kept"),
    [
        ("A Dirty Word stands here.", False),
        ("a dirty  word", True),
        ("dirty wording", True),
        ("c++ is blocked", False),
        ("comment", True),
    ],
)
def test_filter_finds_whole_words(tmp_path: Path, text: str, is_kept: bool) -> None:
    path = tmp_path / "words.txt"
    path.write_text("# comment\n\ndirty word\nC++\n")
    verdict = BlocklistFilter(path).filter(Document(text=text, id="a"))
    assert (verdict is True) == is_kept


@pytest.mark.parametrize(
    ("content", "message"), [(b"\n# a\n", "holds no word"), (b"\xff", "not UTF-8")]
)
def test_filter_refuses_a_list_that_blocks_nothing(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        BlocklistFilter(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        BlocklistFilter(tmp_path / "gone.txt")
