from pathlib import Path

from datatrove.data import Document

from training.cleaning.decontamination import ContaminationFilter, write_index
from training.cleaning.words import RegexWords

QUESTION = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many in May."
)


def test_filter_names_the_evaluation_set_and_the_words(tmp_path: Path) -> None:
    write_index({"gsm8k": [QUESTION, "too short"], "other": ["a b c d e f"]}, 6, tmp_path)
    block = ContaminationFilter(tmp_path, 6, RegexWords())
    document = Document(text="He asked: natalia SOLD clips to 12 of her friends!", id="a")
    assert block.filter(document) == (False, "gsm8k")
    assert document.metadata["detail"] == "natalia sold clips to 0 of"
    assert block.filter(Document(text="Natalia sold clips. Too short.", id="b")) is True
    assert block.filter(Document(text="x a b c d e f", id="c")) == (False, "other")
