import hashlib
from collections.abc import Sequence

import pytest

from everloop.records import Document
from training import python_docs
from training.corpus import Conversation
from training.docstrings import Entry

pytestmark = pytest.mark.slow  # reading the documentation takes seconds


@pytest.fixture(scope="module")
def corpus() -> list[Document | Conversation]:
    return list(python_docs.read())


def entry(docstring: str, is_public: bool = True) -> Entry:
    return Entry("os.path.join", "function", "(a, *p)", docstring, is_public)


def documents(corpus: Sequence[Document | Conversation]) -> dict[str, Document]:
    return {item.id: item for item in corpus if isinstance(item, Document)}


def test_read_gives_help_topics_and_modules(corpus: list[Document | Conversation]) -> None:
    found = documents(corpus)
    assert found["help/assert"].text.startswith('The "assert" statement')
    assert found["help/assert"].source == "pydoc_data.topics"
    path = found["stdlib/os.path"]
    assert path.source == "os.path"
    assert "os.path.join(a, *p)\n\nJoin two or more pathname components" in path.text
    assert "tkinter" not in {item.partition("/")[2].partition(".")[0] for item in found}


def test_read_gives_a_corpus_of_useful_size(corpus: list[Document | Conversation]) -> None:
    texts = [item.text for item in corpus if isinstance(item, Document)]
    assert len(texts) > 400
    assert sum(map(len, texts)) > 1_500_000
    assert sum(isinstance(item, Conversation) for item in corpus) > 2_500


def test_read_gives_unique_ids(corpus: list[Document | Conversation]) -> None:
    assert len({item.id for item in corpus}) == len(corpus)


def test_read_records_licence_and_hash(corpus: list[Document | Conversation]) -> None:
    assert {item.licence for item in corpus} == {"PSF-2.0"}
    document = documents(corpus)["help/assert"]
    assert document.sha256 == hashlib.sha256(document.text.encode()).hexdigest()


def test_read_ties_pairs_to_documents(corpus: list[Document | Conversation]) -> None:
    pairs = [item for item in corpus if isinstance(item, Conversation)]
    assert {pair.document for pair in pairs} <= documents(corpus).keys()
    assert all([turn.role for turn in pair.messages] == ["user", "assistant"] for pair in pairs)
    assert all(20 <= len(pair.messages[1].content) <= 240 for pair in pairs)


def test_pairs_read_again_are_those_of_the_corpus(corpus: list[Document | Conversation]) -> None:
    expected = [item for item in corpus if isinstance(item, Conversation) and item.topic == "json"]
    assert python_docs.pairs("json") == expected
    assert len(expected) >= 5


def test_pairs_word_the_question_by_seed() -> None:
    first, second = python_docs.pairs("os", seed=0), python_docs.pairs("os", seed=1)
    assert [pair.id for pair in first] == [pair.id for pair in second]
    assert [pair.messages[0] for pair in first] != [pair.messages[0] for pair in second]
    assert [pair.messages[1] for pair in first] == [pair.messages[1] for pair in second]
    words = {pair.messages[0].content.split()[0] for pair in first}
    assert {"What", "Explain", "How"} <= words


@pytest.mark.parametrize(
    ("docstring", "answer"),
    [
        ("Join two or more paths,\n    of any length.", "Join two or more paths, of any length."),
        ("Join two paths together.\n\nAll else is not said.", "Join two paths together."),
        ("join(a, *p) -> str\n\nJoin two paths together.", "Join two paths together."),
        (f"{'word ' * 30}ends, e.g. here. {'tail ' * 30}ends.", f"{'word ' * 30}ends, e.g. here."),
        ("Read a file and close it.\n- first this\n- then that", "Read a file and close it."),
    ],
)  # fmt: skip
def test_answer_is_the_first_paragraph_of_prose(docstring: str, answer: str) -> None:
    assert python_docs._answer(entry(docstring)) == answer


@pytest.mark.parametrize(
    "docstring",
    [
        "Join two paths.",  # too short to hold more than the name says
        "A usage example, which is all there is::\n\n    join(a, b)",
        ">>> join('a', 'b') gives a path of two parts\n'a/b'",
        "word " * 100,  # no sentence ends in time
    ],
)
def test_answer_is_none_without_prose(docstring: str) -> None:
    assert python_docs._answer(entry(docstring)) is None


def test_answer_is_none_for_private_names() -> None:
    public = entry("Join two or more paths together, whatever they are.")
    private = entry("Join two or more paths together, whatever they are.", is_public=False)
    assert python_docs._answer(public) == "Join two or more paths together, whatever they are."
    assert python_docs._answer(private) is None
