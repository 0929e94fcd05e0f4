from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.errors import RefusedError
from everloop.records import DatasetRow, Feedback, Interaction, Message, Source, content_hash
from feedback.dataset import (
    FeedbackConfig,
    FeedbackDataset,
    build_feedback_dataset,
    choose_validation,
    is_held_out,
)

Ask = Callable[..., Interaction]
Say = Callable[..., Feedback]
Row = Callable[..., DatasetRow]

ALL_TRAIN = FeedbackConfig(holdout_share=0.0, min_rows=1)


def build(
    interactions: list[Interaction],
    feedback: list[Feedback],
    config: FeedbackConfig = ALL_TRAIN,
    replay: list[DatasetRow] | None = None,
    seed: int = 0,
) -> FeedbackDataset:
    return build_feedback_dataset(interactions, feedback, replay or [], config, seed)


def answers(rows: tuple[DatasetRow, ...]) -> list[str]:
    return sorted(row.messages[-1].content for row in rows if row.messages)


def test_approved_answer_becomes_a_row_with_its_sources(asked: Ask, said: Say) -> None:
    dataset = build([asked(1)], [said(1)])
    messages = (
        Message(role="user", content="What is number 1?"),
        Message(role="assistant", content="Number 1 is a number."),
    )
    assert dataset.train == (
        DatasetRow(
            id=content_hash(None, messages),
            split="train",
            sources=(
                Source(kind="interaction", id="chatcmpl-1"),
                Source(kind="feedback", id="fb-1-thumbs"),
            ),
            messages=messages,
        ),
    )
    assert dataset.dropped == Counter()


def test_tools_that_could_be_called_are_learnt_with_the_answer(asked: Ask, said: Say) -> None:
    tools = ({"type": "function", "function": {"name": "clock"}},)
    with_tools, without = asked(1, tools=tools), asked(2)
    newest_first = build([with_tools, without], [said(1), said(2)]).train
    assert [row.tools for row in newest_first] == [None, tools]
    row = newest_first[1]
    assert row.id == content_hash(None, row.messages, tools=tools)
    assert row.id != content_hash(None, row.messages)


def test_correction_beats_a_thumb_whenever_it_came(asked: Ask, said: Say) -> None:
    feedback = [said(1, "demonstration", "The first."), said(1, created_at=9000.0)]
    dataset = build([asked(1)], feedback)
    assert answers(dataset.train) == ["The first."]
    assert dataset.train[0].sources[1] == Source(kind="feedback", id="fb-1-demonstration")


def test_last_word_of_a_metric_counts(asked: Ask, said: Say) -> None:
    later = said(1, value=True, id="fb-later", created_at=9000.0)
    dataset = build([asked(1)], [later, said(1, value=False)])
    assert dataset.train[0].sources[1] == Source(kind="feedback", id="fb-later")


@pytest.mark.parametrize(
    ("changes", "feedback", "reason"),
    [
        ({}, {"value": False}, "thumb down without a correction"),
        ({}, {"metric_name": "comment", "value": "Hm."}, "no rating to learn from"),
        ({}, {"metric_name": "thumbs", "value": "up"}, "no rating to learn from"),
        ({"answer": None}, {}, "no text was kept"),
        ({"messages": ()}, {}, "no text was kept"),
        ({}, {"metric_name": "demonstration", "value": ""}, "no text was kept"),
        ({"answer": " 7 "}, {}, "answer is too short"),
        ({"finish_reason": "length"}, {}, "approved answer was cut off"),
        ({"route": "completions"}, {}, "not a chat"),
        (
            {"messages": (Message(role="assistant", content="Hello"),)},
            {},
            "no question at the end",
        ),
        ({}, {"inference_id": "chatcmpl-9"}, "about an unknown interaction"),
        (
            {},
            {"inference_id": None, "episode_id": "talk-1"},
            "about a conversation, not an answer",
        ),
    ],
)
def test_what_is_left_out_is_counted_with_its_reason(
    asked: Ask, said: Say, changes: dict[str, object], feedback: dict[str, object], reason: str
) -> None:
    dataset = build([asked(1, **changes), asked(2)], [said(2), said(1).model_copy(update=feedback)])
    assert dataset.dropped[reason] == 1
    assert answers(dataset.train) == ["Number 2 is a number."]


def test_cut_off_answer_can_be_corrected(asked: Ask, said: Say) -> None:
    dataset = build([asked(1, finish_reason="length")], [said(1, "demonstration", "The first.")])
    assert answers(dataset.train) == ["The first."]


def test_equal_answers_become_one_row_with_all_sources(asked: Ask, said: Say) -> None:
    interactions = [asked(n, "What is it?", answer=text) for n, text in ((1, "A."), (2, " a. "))]
    dataset = build(interactions, [said(1), said(2)])
    assert len(dataset.train) == 1
    assert {source.id for source in dataset.train[0].sources} == {
        "chatcmpl-1", "chatcmpl-2", "fb-1-thumbs", "fb-2-thumbs",
    }  # fmt: skip
    assert dataset.dropped == {"same answer again": 1}


def test_newest_correction_wins_over_all_other_answers(asked: Ask, said: Say) -> None:
    interactions = [
        asked(number, "What is  IT?" if number == 3 else "what is it?") for number in range(5)
    ]
    feedback = [
        said(0, "demonstration", "An old correction."),
        said(1, "demonstration", "The newest correction."),
        said(2),
        said(3),
    ]
    dataset = build(interactions, feedback)
    assert answers(dataset.train) == ["The newest correction."]
    assert dataset.dropped["another answer was preferred"] == 3


def test_same_words_in_another_context_are_another_question(asked: Ask, said: Say) -> None:
    why = Message(role="user", content="Why?")
    contexts = [
        (
            Message(role="user", content=f"Is {n} odd?"),
            Message(role="assistant", content="No."),
            why,
        )
        for n in (2, 4)
    ]
    interactions = [asked(n, messages=turns) for n, turns in enumerate(contexts)]
    assert len(build(interactions, [said(0), said(1)]).train) == 2


def test_user_over_the_cap_keeps_the_newest_and_the_corrections(asked: Ask, said: Say) -> None:
    interactions = [asked(n, metadata={"user": "eve"}) for n in range(5)] + [asked(9)]
    feedback = [said(n) for n in (1, 2, 3, 4, 9)] + [said(0, "demonstration", "Corrected.")]
    config = FeedbackConfig(holdout_share=0.0, min_rows=1, max_rows_per_user=2)
    dataset = build(interactions, feedback, config)
    assert answers(dataset.train) == [
        "Corrected.", "Number 4 is a number.", "Number 9 is a number.",
    ]  # fmt: skip
    assert dataset.dropped == {"user is over the cap": 3}


def test_personal_data_is_masked_in_questions_and_answers(asked: Ask, said: Say) -> None:
    dataset = build(
        [asked(1, "I am ada@example.org")], [said(1, "demonstration", "Call 212-555-0123.")]
    )
    assert [turn.content for turn in dataset.train[0].messages or ()] == [
        "I am <EMAIL>", "Call <PHONE>.",
    ]  # fmt: skip


def test_holdout_has_its_share_and_no_conversation_on_both_sides(asked: Ask, said: Say) -> None:
    interactions = [asked(n, conversation_id=f"talk-{n // 3}") for n in range(900)]
    dataset = build(interactions, [said(n) for n in range(900)], FeedbackConfig())
    assert 0.24 < len(dataset.holdout) / 900 < 0.36
    assert all(row.split == "holdout" for row in dataset.holdout)
    sides = [
        {int(row.sources[0].id.removeprefix("chatcmpl-")) // 3 for row in rows}
        for rows in (dataset.train, dataset.holdout)
    ]
    assert sides[0].isdisjoint(sides[1])


def test_conversation_stays_on_its_side_when_more_is_known(asked: Ask, said: Say) -> None:
    first = build([asked(n) for n in range(100)], [said(n) for n in range(100)], FeedbackConfig())
    more = build([asked(n) for n in range(300)], [said(n) for n in range(300)], FeedbackConfig())
    assert set(first.holdout) <= set(more.holdout)
    assert set(first.train) <= set(more.train)


def test_without_a_conversation_the_question_decides_the_side(asked: Ask) -> None:
    once, again = (asked(n, "What is it?", conversation_id=None) for n in (1, 2))
    assert is_held_out(once, 0.5) == is_held_out(again, 0.5)
    asked_all = [asked(n, conversation_id=None) for n in range(400)]
    assert 80 < sum(is_held_out(interaction, 0.3) for interaction in asked_all) < 160


def test_question_that_is_held_out_is_never_trained_on(asked: Ask, said: Say) -> None:
    # talk-1 and talk-2 ask the same; at this share one of them is held out.
    interactions = [asked(n, "What is it?", conversation_id=f"talk-{n}") for n in range(1, 30)]
    follow_up = asked(
        50,
        conversation_id=next(
            row.conversation_id for row in interactions if not is_held_out(row, 0.3)
        ),
        messages=(
            Message(role="user", content="WHAT is it? "),
            Message(role="assistant", content="This."),
            Message(role="user", content="And that?"),
        ),
    )
    other = asked(60, "Another question", conversation_id=follow_up.conversation_id)
    everything = [*interactions, follow_up, other]
    feedback = [said(n) for n in (*range(1, 30), 50, 60)]
    dataset = build(everything, feedback, FeedbackConfig(min_rows=1))
    assert len(dataset.holdout) == 1
    assert [row.sources[0].id for row in dataset.train] == ["chatcmpl-60"]
    assert dataset.dropped["question is held out"] == 2


def test_replay_comes_from_training_rows_only_and_keeps_its_sources(
    asked: Ask, said: Say, row: Row
) -> None:
    replay = [row(1), row(2, "validation"), row(3, "holdout"), row(4)]
    config = FeedbackConfig(holdout_share=0.0, min_rows=1, replay_ratio=5.0)
    dataset = build([asked(1)], [said(1)], config, replay)
    assert set(dataset.replay) == {row(1), row(4)}
    assert dataset.rows == dataset.train + dataset.replay


@pytest.mark.parametrize(("ratio", "count"), [(0.0, 0), (0.5, 5), (2.0, 20)])
def test_replay_has_the_ratio(asked: Ask, said: Say, row: Row, ratio: float, count: int) -> None:
    config = FeedbackConfig(holdout_share=0.0, min_rows=1, replay_ratio=ratio)
    interactions, feedback = [asked(n) for n in range(10)], [said(n) for n in range(10)]
    dataset = build(interactions, feedback, config, [row(n) for n in range(50)])
    assert len(dataset.replay) == count


def test_replay_is_chosen_by_the_seed_and_not_by_the_order(asked: Ask, said: Say, row: Row) -> None:
    interactions, feedback = [asked(n) for n in range(5)], [said(n) for n in range(5)]
    old = [row(n) for n in range(50)]
    one = build(interactions, feedback, replay=old, seed=1)
    assert one.replay == build(interactions, feedback, replay=old[::-1], seed=1).replay
    assert one.replay != build(interactions, feedback, replay=old, seed=2).replay


def test_replay_leaves_out_what_is_held_out_or_learnt_anyway(
    asked: Ask, said: Say, row: Row
) -> None:
    interactions, feedback = [asked(n) for n in range(40)], [said(n) for n in range(40)]
    config = FeedbackConfig(min_rows=1, replay_ratio=9.0)
    alone = build(interactions, feedback, config)
    replay = [row(messages=item.messages) for item in alone.rows]
    dataset = build(interactions, feedback, config, [*replay, row(1)])
    assert dataset.replay == (row(1),)
    assert dataset.dropped["replayed question is held out"] == len(alone.holdout)


def test_a_system_prompt_does_not_decide_what_is_held_out(asked: Ask) -> None:
    system = Message(role="system", content="You are brief.")
    plain = [asked(n, conversation_id=None) for n in range(200)]
    instructed = [item.model_copy(update={"messages": (system, *item.messages)}) for item in plain]
    sides = [is_held_out(item, 0.3) for item in plain]
    assert [is_held_out(item, 0.3) for item in instructed] == sides


def test_replay_leaves_out_what_is_answered_anew(asked: Ask, said: Say, row: Row) -> None:
    old_answer = Message(role="assistant", content="What it said before.")
    question = Message(role="user", content="  what is NUMBER 1? ")
    config = FeedbackConfig(holdout_share=0.0, min_rows=1, replay_ratio=9.0)
    replay = [row(messages=(question, old_answer)), row(2)]
    dataset = build([asked(1)], [said(1)], config, replay)
    assert dataset.replay == (row(2),)
    assert dataset.dropped["replayed question is answered anew"] == 1


def test_validation_takes_all_rows_of_a_question(row: Row) -> None:
    def answered(number: int, system: str) -> DatasetRow:
        turns = [("system", system), ("user", f"Question {number}?"), ("assistant", "So.")]
        return row(messages=tuple(Message(role=role, content=content) for role, content in turns))

    rows = [answered(number, system) for number in range(60) for system in ("Be brief.", "Sing.")]
    split = choose_validation(rows, 0.3)
    sides = [
        {found.split for found in split if found.messages and found.messages[1].content == asked}
        for asked in (f"Question {number}?" for number in range(60))
    ]
    assert {len(found) for found in sides} == {1}
    assert 10 < sum(found == {"validation"} for found in sides) < 28
    assert choose_validation(rows[::-1], 0.3) == split[::-1]


def test_validation_is_chosen_apart_from_the_hold_out(asked: Ask, said: Say) -> None:
    # Without a conversation's id both go by the question.
    interactions = [asked(n, conversation_id=None) for n in range(200)]
    learnt = build(interactions, [said(n) for n in range(200)], FeedbackConfig()).train
    chosen = [row for row in choose_validation(learnt, 0.15) if row.split == "validation"]
    assert 0.08 < len(chosen) / len(learnt) < 0.22


def test_too_few_rows_are_refused_with_the_counts(asked: Ask, said: Say) -> None:
    with pytest.raises(RefusedError) as caught:
        build([asked(1), asked(2)], [said(1), said(2, value=False)], FeedbackConfig(min_rows=5))
    assert "1 rows to train on (feedback.min_rows = 5)" in str(caught.value)
    assert "1 thumb down without a correction" in str(caught.value)


def test_too_few_rows_to_judge_by_are_refused(asked: Ask, said: Say) -> None:
    config = FeedbackConfig(holdout_share=0.0, min_rows=1, min_holdout_rows=3)
    with pytest.raises(
        RefusedError, match=r"0 to judge by \(feedback.min_holdout_rows or .* = 3\)"
    ):
        build([asked(1)], [said(1)], config)


numbers = st.integers(0, 30)
words = st.sampled_from(["demonstration", "thumbs"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(numbers, numbers, numbers), max_size=40),
    st.lists(st.tuples(numbers, words, st.booleans(), numbers), max_size=60),
)
def test_any_history_keeps_the_promises(
    asks: list[tuple[int, int, int]], says: list[tuple[int, str, bool, int]]
) -> None:
    interactions = [
        Interaction(
            id=f"c{index}", created_at=index, route="chat", conversation_id=f"talk-{talk}",
            model_version="m:1", messages=(Message(role="user", content=f"Question {question}?"),),
            answer=f"Answer {answer}.", finish_reason="stop", prompt_tokens=1, completion_tokens=1,
            temperature=0, top_p=1, max_tokens=9, seed=None, queue_seconds=0, ttft_seconds=0,
            e2e_seconds=0,
        )
        for index, (talk, question, answer) in enumerate(asks)
    ]  # fmt: skip
    feedback = [
        Feedback(
            id=f"f{index}", created_at=index, inference_id=f"c{target}", episode_id=None,
            metric_name=metric, value=f"Better {value}." if metric == "demonstration" else good,
        )
        for index, (target, metric, good, value) in enumerate(says)
    ]  # fmt: skip
    try:
        dataset = build(interactions, feedback, FeedbackConfig(min_rows=1, holdout_share=0.4))
    except RefusedError:
        return
    talks = {row.id: row.conversation_id for row in interactions}
    questions = {split: set[str]() for split in ("train", "holdout")}
    sides = {split: set[str | None]() for split in ("train", "holdout")}
    for row in dataset.rows:
        assert row.messages is not None
        assert row.id == content_hash(None, row.messages)
        assert row.messages[0].content not in questions[row.split]  # one answer per question
        questions[row.split].add(row.messages[0].content)
        origin = [source for source in row.sources if source.kind == "interaction"]
        assert {source.kind for source in row.sources} == {"interaction", "feedback"}
        sides[row.split] |= {talks[source.id] for source in origin}
    assert questions["train"].isdisjoint(questions["holdout"])
    assert sides["train"].isdisjoint(sides["holdout"])
    assert all(count > 0 for count in dataset.dropped.values())
