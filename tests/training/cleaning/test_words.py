import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import GopherQualityFilter

from training.cleaning.words import RegexWords
from training.python_docs import _help_topics


def test_words_keep_inner_dots_and_apostrophes() -> None:
    words = RegexWords().word_tokenize("It's os.path...\n(see x_1, 3.5)")
    assert words == ["It's", "os.path", "...", "(", "see", "x_1", ",", "3.5", ")"]


def test_sentences_are_the_whole_text() -> None:
    text = 'One. "Two!" Three is 3.5 long? Four'
    spans = RegexWords().span_tokenize(text)
    assert [text[start:end].strip() for start, end in spans] == [
        "One.", '"Two!"', "Three is 3.5 long?", "Four",
    ]  # fmt: skip
    assert "".join(text[start:end] for start, end in spans) == text
    assert RegexWords().sent_tokenize(text)[-1] == "Four"


@pytest.mark.slow
def test_rules_decide_as_with_spacy() -> None:
    pytest.importorskip("spacy")
    fast, slow = (
        GopherQualityFilter(
            min_doc_words=8,
            min_avg_word_length=2,
            max_avg_word_length=12,
            max_symbol_word_ratio=0.2,
            max_non_alpha_words_ratio=0.4,
            min_stop_words=1,
            language=language,
        )
        for language in (RegexWords(), "en")
    )
    documents = [Document(text=text, id=name) for name, text in _help_topics().items()]
    same = [fast.filter(document) == slow.filter(document) for document in documents]
    assert sum(same) >= 0.97 * len(same)
