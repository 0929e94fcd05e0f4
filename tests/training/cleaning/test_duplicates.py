from datatrove.data import Document

from training.cleaning.duplicates import ExactDuplicateFilter


def test_filter_keeps_the_first_and_ignores_white_space() -> None:
    block = ExactDuplicateFilter()
    texts = ["a b", " a\n b ", "a c", "A b", "a b"]
    verdicts = [block.filter(Document(text=text, id=text)) for text in texts]
    assert verdicts == [True, (False, "duplicate"), True, True, (False, "duplicate")]
