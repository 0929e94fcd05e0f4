from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.records import Feedback, FunctionCall, Interaction, Message, ToolCall
from feedback.store.text_policy import keep_feedback, keep_interaction

Ask = Callable[..., Interaction]
Say = Callable[..., Feedback]

QUESTION = (Message(role="user", content="Write to ada@example.org"),)


@pytest.mark.parametrize(
    ("policy", "question", "answer"),
    [
        ("full", "Write to ada@example.org", "Or call 212-555-0123."),
        ("masked", "Write to <EMAIL>", "Or call <PHONE>."),
    ],
)
def test_interaction_text_goes_by_the_policy(
    asked: Ask, policy: str, question: str, answer: str
) -> None:
    kept = keep_interaction(asked(1, messages=QUESTION, answer="Or call 212-555-0123."), policy)
    assert (kept.messages[0].content, kept.answer) == (question, answer)


def test_arguments_of_calls_are_text_too(asked: Ask) -> None:
    function = FunctionCall(name="write", arguments='{"to": "ada@example.org"}')
    call = Message(role="assistant", content="", tool_calls=(ToolCall(id="1", function=function),))
    kept = keep_interaction(asked(1, messages=(*QUESTION, call)), "masked").messages[1]
    assert kept.tool_calls is not None
    assert kept.tool_calls[0].function.arguments == '{"to": "<EMAIL>"}'


def test_off_keeps_numbers_only(asked: Ask) -> None:
    kept = keep_interaction(asked(1, tools=({"type": "function"},)), "off")
    assert (kept.messages, kept.answer, kept.prompt_tokens) == ((), None, 7)
    assert kept.tools is None


def test_interaction_without_text_stays_so(asked: Ask) -> None:
    bare = asked(1, messages=(), answer=None)
    assert keep_interaction(bare, "masked") == bare


def test_labels_are_masked_users_get_a_pseudonym_conversations_keep_their_id(asked: Ask) -> None:
    labels = {
        "user": "ada@example.org", "note": "ada@example.org", "conversation_id": "212-555-0123",
    }  # fmt: skip
    kept = keep_interaction(asked(1, metadata=labels), "masked").metadata
    assert kept["note"] == "<EMAIL>"
    assert kept["conversation_id"] == "212-555-0123"
    assert kept["user"] == "user-cfe00dde46ef9426"


def test_user_that_is_no_personal_data_is_kept(asked: Ask) -> None:
    assert keep_interaction(asked(1, metadata={"user": "u17"}), "off").metadata == {"user": "u17"}


@pytest.mark.parametrize(
    ("policy", "value"), [("full", "ada@example.org"), ("masked", "<EMAIL>"), ("off", "")]
)
def test_feedback_text_goes_by_the_policy(said: Say, policy: str, value: str) -> None:
    assert keep_feedback(said(1, "comment", "ada@example.org"), policy).value == value


@pytest.mark.parametrize("value", [True, False, 0.25])
def test_rating_is_kept_under_any_policy(said: Say, value: bool | float) -> None:
    assert keep_feedback(said(1, value=value), "off").value is value


def test_feedback_tags_are_masked(said: Say) -> None:
    assert keep_feedback(said(1, tags={"by": "ada@example.org"}), "off").tags == {"by": "<EMAIL>"}


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_any_text_becomes_storable(text: str) -> None:
    feedback = Feedback(
        id="f", created_at=0, inference_id="i", episode_id=None, metric_name="comment", value=text
    )
    value = keep_feedback(feedback, "full").value
    assert isinstance(value, str)
    assert "\0" not in value
    value.encode("utf-8")
