import pytest
from datatrove.data import Document

from training.cleaning.length import LengthFilter


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("ab", (False, "too_short")),
        ("abc", True),
        ("abcde", True),
        ("abcdef", (False, "too_long")),
        (" abc \n", True),
        ("   ", (False, "too_short")),
    ],
)
def test_filter_measures_the_text_without_outer_space(text: str, verdict: object) -> None:
    assert LengthFilter(3, 5).filter(Document(text=text, id="a")) == verdict
