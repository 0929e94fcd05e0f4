from collections.abc import Callable

import pytest

from everloop.errors import NotFoundError
from everloop.manifest import DatasetRef
from everloop.records import DatasetRow, Feedback, Interaction, Message, Source
from everloop.registry import ModelVersion
from feedback.store import DatasetVersion, SourceTrace, Store
from feedback.store.database import insert_new, writing
from feedback.store.interactions import to_row
from feedback.store.tables import feedback as feedback_table
from feedback.store.tables import interactions as interactions_table

DOCUMENT = Source(kind="document", id="doc-1")
INTERACTION = Source(kind="interaction", id="chatcmpl-1")
FEEDBACK = Source(kind="feedback", id="fb-1-demonstration")
TURNS = (
    Message(role="user", content="What is number 1?"),
    Message(role="assistant", content="The first."),
)


def ref(version: DatasetVersion, use: str) -> DatasetRef:
    return DatasetRef(id=version.id, merkle_root=version.merkle_root, rows=version.rows, use=use)


@pytest.fixture
def lived(
    store: Store,
    asked: Callable[..., Interaction],
    said: Callable[..., Feedback],
    row: Callable[..., DatasetRow],
    version: Callable[..., ModelVersion],
) -> Store:
    """v1 answers 1, is corrected, v2 learns from it and answers 2."""
    corpus_rows = [*(row(n, sources=(DOCUMENT,)) for n in range(20)), row(99, "validation")]
    corpus_rows[0] = row(text="word " * 100, sources=(DOCUMENT,))
    corpus = DatasetVersion.of(corpus_rows, "corpus", documents={"doc-1": "The book of numbers"})
    lesson_rows = [
        row(messages=TURNS, sources=(INTERACTION, FEEDBACK)),
        row(0, sources=(DOCUMENT,)),
    ]
    lesson = DatasetVersion.of(lesson_rows, "feedback", parent=corpus.id)
    store.save_dataset(corpus, corpus_rows)
    store.save_dataset(lesson, lesson_rows)
    gone = DatasetRef(id="ds-gone", merkle_root="00" * 32, rows=5, use="sft")
    store.record_model_version(version("v1", datasets=(ref(corpus, "pretrain"),)))
    seen = (ref(corpus, "pretrain"), gone, ref(lesson, "feedback"))
    store.record_model_version(version("v2", parent="everloop:v1", datasets=seen))
    answers = [
        asked(1),
        asked(2, model_version="everloop:v2"),
        asked(3, model_version="everloop:unrecorded"),
    ]
    with writing(store.engine) as connection:
        insert_new(connection, interactions_table, [to_row(row) for row in answers])
        words = [said(1, "demonstration", "The first."), said(2)]
        insert_new(connection, feedback_table, [to_row(row) for row in words])
    return store


def test_trace_names_the_answer_and_its_model(lived: Store, said: Callable[..., Feedback]) -> None:
    trace = lived.trace("chatcmpl-2")
    assert trace.interaction.answer == "Number 2 is a number."
    assert trace.feedback == (said(2),)
    assert trace.model_version == "everloop:v2"
    assert trace.ancestors == ("everloop:v1",)
    assert trace.checkpoint_sha256 == "ab" * 32


def test_trace_leads_to_the_correction_and_the_document(lived: Store) -> None:
    corpus, _, lesson = lived.trace("chatcmpl-2").datasets
    assert corpus.ref.use == "pretrain"
    assert lesson.version is not None
    assert lesson.version.parent == corpus.ref.id
    traced = {traced for row in lesson.sample for traced in row.sources}
    assert traced == {
        SourceTrace(INTERACTION, "What is number 1?"),
        SourceTrace(FEEDBACK, "demonstration = The first."),
        SourceTrace(DOCUMENT, "The book of numbers"),
    }
    assert "What is number 1? → The first." in {row.excerpt for row in lesson.sample}


def test_trace_counts_all_and_shows_a_few(lived: Store) -> None:
    corpus, _, lesson = lived.trace("chatcmpl-2", sample=3).datasets
    assert corpus.splits == {"train": 20, "validation": 1}
    assert corpus.sources == {"document": 20}
    assert len(corpus.sample) == 3
    assert lesson.sources == {"document": 1, "feedback": 1, "interaction": 1}


def test_trace_says_which_dataset_the_store_lacks(lived: Store) -> None:
    gone = lived.trace("chatcmpl-2").datasets[1]
    assert (gone.ref.id, gone.version, gone.sample) == ("ds-gone", None, ())


def test_trace_of_an_unknown_answer_says_so(lived: Store) -> None:
    with pytest.raises(NotFoundError, match="no interaction chatcmpl-9 in the store"):
        lived.trace("chatcmpl-9")


def test_trace_of_an_unrecorded_version_says_so(lived: Store) -> None:
    with pytest.raises(NotFoundError, match="chatcmpl-3 was answered by everloop:unrecorded"):
        lived.trace("chatcmpl-3")


def test_long_text_is_shortened(lived: Store) -> None:
    excerpts = {row.excerpt for row in lived.trace("chatcmpl-1", sample=50).datasets[0].sample}
    assert "word " * 31 + "word…" in excerpts
