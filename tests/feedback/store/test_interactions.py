import asyncio
from collections.abc import Callable

import pytest

from everloop.errors import NotFoundError
from everloop.records import Feedback, Interaction
from feedback.store import FeedbackCounts, Store
from feedback.store.database import insert_new, writing
from feedback.store.interactions import to_row
from feedback.store.tables import feedback as feedback_table
from feedback.store.tables import interactions as interactions_table

Ask = Callable[..., Interaction]
Say = Callable[..., Feedback]


def fill(store: Store, interactions: list[Interaction], feedback: list[Feedback]) -> None:
    with writing(store.engine) as connection:
        insert_new(connection, interactions_table, [to_row(row) for row in interactions])
        insert_new(connection, feedback_table, [to_row(row) for row in feedback])


@pytest.fixture
def lived(store: Store, asked: Ask, said: Say) -> Store:
    interactions = [
        asked(1),
        asked(2, model_version="everloop:v2", conversation_id="talk-1"),
        asked(3, seed=7, ttft_seconds=None, metadata={"user": "u"}),
        asked(4, messages=(), answer=None, conversation_id=None),
    ]
    feedback = [
        said(1),
        said(2, value=False),
        said(2, "demonstration", "Better."),
        said(3, "comment", "Nice."),
        said(3, "usefulness", 0.5),
    ]
    fill(store, interactions, feedback)
    return store


def ids(rows: list[Interaction]) -> list[str]:
    return [row.id.removeprefix("chatcmpl-") for row in rows]


def test_interaction_comes_back_as_it_was(lived: Store, asked: Ask) -> None:
    wanted = asked(3, seed=7, ttft_seconds=None, metadata={"user": "u"})
    assert lived.interaction("chatcmpl-3") == wanted


def test_unknown_interaction_is_named(lived: Store) -> None:
    with pytest.raises(NotFoundError, match="no interaction chatcmpl-9 in the store"):
        lived.interaction("chatcmpl-9")


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ({}, ["1", "2", "3", "4"]),
        ({"since": 1002.0}, ["2", "3", "4"]),
        ({"until": 1002.0}, ["1"]),
        ({"model_version": "everloop:v2"}, ["2"]),
        ({"conversation_id": "talk-1"}, ["1", "2"]),
        ({"limit": 2}, ["1", "2"]),
        ({"limit": 2, "newest_first": True}, ["4", "3"]),
        ({"exclude": {"chatcmpl-1", "chatcmpl-3"}, "limit": 2}, ["2", "4"]),
        ({"exclude": {"chatcmpl-9"}, "limit": 2}, ["1", "2"]),
    ],
)
def test_interactions_are_chosen(lived: Store, chosen: dict[str, object], found: list[str]) -> None:
    assert ids(lived.interactions(**chosen)) == found


def test_more_ids_than_one_statement_takes_are_found(store: Store, asked: Ask) -> None:
    fill(store, [asked(number) for number in range(1200)], [])
    wanted = [f"chatcmpl-{number}" for number in range(1300)]
    assert len(store.interactions_by_id(wanted)) == 1200


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ({}, 5),
        ({"since": 2002.0}, 4),
        ({"until": 2002.0}, 1),
        ({"metric_name": "thumbs"}, 2),
        ({"inference_id": "chatcmpl-2"}, 2),
        ({"limit": 3}, 3),
    ],
)
def test_feedback_is_chosen(lived: Store, chosen: dict[str, object], found: int) -> None:
    assert len(lived.feedback(**chosen)) == found


def test_feedback_for_is_in_the_order_of_giving(lived: Store) -> None:
    found = lived.feedback_for(["chatcmpl-2", "chatcmpl-1", "chatcmpl-9"])
    assert [row.id for row in found] == ["fb-1-thumbs", "fb-2-demonstration", "fb-2-thumbs"]


def test_feedback_by_id(lived: Store, said: Say) -> None:
    assert lived.feedback_by_id(["fb-1-thumbs", "fb-9"]) == [said(1)]


def test_rated_brings_all_feedback_of_what_was_rated_in_the_span(
    lived: Store, asked: Ask, said: Say
) -> None:
    fill(lived, [], [said(1, "comment", "On second thought.", created_at=3000.0)])
    interactions, feedback = lived.rated(since=2500.0)
    assert ids(interactions) == ["1"]
    assert [row.id for row in feedback] == ["fb-1-thumbs", "fb-1-comment"]


def test_feedback_counts_by_rating(lived: Store) -> None:
    counts = lived.feedback_counts()
    assert counts == FeedbackCounts(positive=1, negative=1, demonstration=1, comment=1, other=1)
    assert counts.total == 5


def test_feedback_counts_since_the_last_round(lived: Store) -> None:
    assert lived.feedback_counts(since=2003.0) == FeedbackCounts(comment=1, other=1)


@pytest.mark.parametrize(
    ("metric_name", "value", "rating"),
    [
        ("thumbs", True, "positive"),
        ("thumbs", 1.0, "positive"),
        ("thumbs", False, "negative"),
        ("thumbs", -1.0, "negative"),
        ("thumbs", "up", "other"),
        ("usefulness", True, "other"),
        ("comment", "x", "comment"),
        ("demonstration", "x", "demonstration"),
    ],
)
def test_rating(said: Say, metric_name: str, value: bool | float | str, rating: str) -> None:
    assert said(1, metric_name, value).rating == rating


def test_store_can_be_read_from_any_thread(lived: Store) -> None:
    async def main() -> list[Interaction]:
        return await asyncio.to_thread(lived.interactions)

    assert len(asyncio.run(main())) == 4
