from collections.abc import Callable

import pytest

from everloop.records import Interaction, Message
from monitoring.features import CATEGORICAL, NUMERICAL, feature_table, question, repetition_ratio

Make = Callable[..., list[Interaction]]


@pytest.fixture
def one(interactions: Make) -> Interaction:
    turns = (
        Message(role="user", content="first question"),
        Message(role="assistant", content="an answer"),
        Message(role="user", content="and now?"),
    )
    return interactions(1, seed=0)[0].model_copy(
        update={"messages": turns, "answer": "It is 4, it is 4.", "ttft_seconds": 0.5}
    )


def test_feature_table_has_one_row_per_interaction(interactions: Make) -> None:
    table = feature_table(interactions(7, seed=0))
    assert table.shape == (7, len(NUMERICAL) + len(CATEGORICAL))


def test_feature_table_computes_the_columns(one: Interaction) -> None:
    row = feature_table([one]).iloc[0]
    assert row["question_chars"] == 8  # "and now?", the last turn of the user
    assert row["answer_chars"] == 17
    assert row["answer_non_letter_ratio"] == pytest.approx(4 / 17)  # 4 , 4 .
    assert row["answer_unique_word_ratio"] == pytest.approx(4 / 6)  # it is 4, | 4.
    assert row["ttft_seconds"] == 0.5
    assert row["finish_reason"] == one.finish_reason
    assert row["route"] == "chat"


def test_feature_table_leaves_a_hole_where_no_text_was_kept(one: Interaction) -> None:
    bare = one.model_copy(update={"messages": (), "answer": None, "ttft_seconds": None})
    table = feature_table([one, bare])
    missing = {name for name in table if table[name].isna()[1]}
    assert missing == {
        "ttft_seconds",
        "question_chars",
        "answer_chars",
        "answer_repetition_ratio",
        "answer_non_letter_ratio",
        "answer_unique_word_ratio",
    }


def test_feature_table_takes_an_empty_answer(one: Interaction) -> None:
    row = feature_table([one.model_copy(update={"answer": ""})]).iloc[0]
    assert row["answer_chars"] == 0
    assert row[["answer_non_letter_ratio", "answer_unique_word_ratio"]].isna().all()


def test_feature_table_takes_an_answer_of_spaces(one: Interaction) -> None:
    row = feature_table([one.model_copy(update={"answer": "   "})]).iloc[0]
    assert row["answer_repetition_ratio"] == 0
    assert row["answer_non_letter_ratio"] == 0


def test_feature_table_of_nothing_has_the_columns() -> None:
    assert list(feature_table([]).columns) == [*NUMERICAL, *CATEGORICAL]


def test_question_is_what_the_user_asked_last(one: Interaction) -> None:
    assert question(one) == "and now?"
    assert question(one.model_copy(update={"messages": ()})) is None


@pytest.mark.parametrize(
    ("text", "ratio"),
    [
        ("a b c a b c", 0.25),
        ("a b c d e f", 0.0),
        ("a a a a a a", 0.75),
        ("A b c a B C", 0.25),
        ("two words", 0.0),
        ("", 0.0),
    ],
)
def test_repetition_ratio_counts_runs_seen_before(text: str, ratio: float) -> None:
    assert repetition_ratio(text) == pytest.approx(ratio)
