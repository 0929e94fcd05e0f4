import time
from collections.abc import Callable, Iterator

import pytest

from everloop.errors import DataError, NotFoundError
from everloop.records import DatasetRow, Message, Source
from feedback.store import DatasetVersion, Store

Row = Callable[..., DatasetRow]


def test_dataset_comes_back_as_it_was(store: Store, row: Row) -> None:
    turns = (Message(role="user", content="Hi"), Message(role="assistant", content="Hello"))
    rows = [row(1), row(2, "holdout"), row(3, messages=turns)]
    version = DatasetVersion.of(
        rows, "feedback", parent="ds-0", dropped={"too short": 3}, documents={"doc-1": "One"}
    )
    store.save_dataset(version, rows)
    assert store.dataset(version.id) == version
    assert store.dataset_rows(version.id) == sorted(rows, key=lambda row: row.id)


def test_preferences_and_ratings_come_back_as_they_were(store: Store, row: Row) -> None:
    user, good, bad = (
        (Message(role=role, content=content),)
        for role, content in (("user", "2 + 2?"), ("assistant", "4"), ("assistant", "5"))
    )
    rows = [
        row(1, messages=user).model_copy(update={"chosen": good, "rejected": bad}),
        row(2, messages=(*user, *bad)).model_copy(update={"label": False}),
    ]
    version = DatasetVersion.of(rows, "corpus")
    store.save_dataset(version, rows)
    assert store.dataset_rows(version.id) == sorted(rows, key=lambda row: row.id)


def test_dataset_is_named_by_its_content(row: Row) -> None:
    one = DatasetVersion.of([row(1), row(2)], "corpus")
    other = DatasetVersion.of([row(2), row(1)], "corpus")
    assert one.id == other.id == f"ds-{one.merkle_root[:12]}"
    assert DatasetVersion.of([row(1)], "corpus").id != one.id


def test_saving_again_changes_nothing(store: Store, row: Row) -> None:
    rows = [row(1)]
    first = DatasetVersion.of(rows, "corpus", documents={"doc-1": "One"})
    store.save_dataset(first, rows)
    store.save_dataset(DatasetVersion.of(rows, "corpus"), rows)
    assert store.datasets() == [first]


def test_a_save_that_was_killed_is_completed_by_the_next(store: Store, row: Row) -> None:
    rows = [row(number) for number in range(3000)]
    version = DatasetVersion.of(rows, "corpus")

    def killed() -> Iterator[DatasetRow]:
        yield from rows[:2500]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.save_dataset(version, killed())
    assert len(store.dataset_rows(version.id)) == 2000
    store.save_dataset(version, rows)
    assert len(store.dataset_rows(version.id)) == 3000


def test_others_may_write_while_rows_are_saved(store: Store, row: Row) -> None:
    rows = [row(number) for number in range(1500)]
    other = DatasetVersion.of([row(9000)], "feedback")

    def interrupted() -> Iterator[DatasetRow]:
        yield from rows[:1200]
        store.save_dataset(other, [row(9000)])  # a second connection; it would wait for a lock
        yield from rows[1200:]

    version = DatasetVersion.of(rows, "corpus")
    store.save_dataset(version, interrupted())
    assert {one.id for one in store.datasets()} == {version.id, other.id}


def test_wrong_rows_leave_a_whole_dataset_alone(store: Store, row: Row) -> None:
    version = DatasetVersion.of([row(1)], "corpus")
    store.save_dataset(version, [row(1)])
    with pytest.raises(DataError, match="found 2 rows with"):
        store.save_dataset(version, [row(1), row(2)])
    assert store.dataset_rows(version.id) == [row(1)]


def test_rows_that_the_version_does_not_name_are_refused(store: Store, row: Row) -> None:
    with pytest.raises(DataError, match="found 2 rows with"):
        store.save_dataset(DatasetVersion.of([row(1)], "corpus"), [row(1), row(2)])
    assert store.datasets() == []


def test_unknown_dataset_is_named(store: Store) -> None:
    with pytest.raises(NotFoundError, match="no dataset ds-9"):
        store.dataset("ds-9")


def test_rows_are_chosen_and_counted_by_split(store: Store, row: Row) -> None:
    rows = [row(1), row(2), row(3, "holdout")]
    version = DatasetVersion.of(rows, "corpus")
    store.save_dataset(version, rows)
    assert store.row_counts(version.id) == {"train": 2, "holdout": 1}
    assert store.dataset_rows(version.id, split="holdout") == [row(3, "holdout")]
    assert len(store.dataset_rows(version.id, limit=2)) == 2


def test_datasets_are_chosen_by_kind(store: Store, row: Row) -> None:
    corpus, said = DatasetVersion.of([row(1)], "corpus"), DatasetVersion.of([row(2)], "feedback")
    store.save_dataset(corpus, [row(1)])
    store.save_dataset(said, [row(2)])
    assert store.datasets("feedback") == [said]


def test_source_leads_back_to_its_rows_alone(store: Store, row: Row) -> None:
    wanted = Source(kind="interaction", id='chat_1%"é')
    rows = [
        row(1, sources=(Source(kind="document", id="d"), wanted)),
        row(2, sources=(Source(kind="interaction", id='chat_1%"é2'),)),
        row(3, sources=(Source(kind="feedback", id='chat_1%"é'),)),
        row(4, sources=(Source(kind="interaction", id='chatX1Z"é'),)),
    ]
    version = DatasetVersion.of(rows, "feedback")
    store.save_dataset(version, rows)
    assert store.rows_from(wanted) == [(version.id, rows[0])]


def test_ten_thousand_rows_are_saved_quickly(store: Store, row: Row) -> None:
    rows = [row(number) for number in range(10_000)]
    version = DatasetVersion.of(rows, "corpus")
    started = time.process_time()
    store.save_dataset(version, rows)
    assert time.process_time() - started < 2.0  # 0.3 s alone on a laptop's core
    assert store.row_counts(version.id) == {"train": 10_000}
