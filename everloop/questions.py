"""What a conversation asks, as it is compared: all answers to one question stay on one side."""

from collections.abc import Sequence

from everloop.records import Message


def normal(text: str) -> str:
    """Text as it is compared: case and white space do not make a question another one."""
    return " ".join(text.casefold().split())


def first_question(messages: Sequence[Message]) -> str:
    """The first thing that a user says, as it is compared; else the first thing that is said.

    What the system says before is left out: it is often the same for all conversations.
    """
    asked = (turn.content for turn in messages if turn.role == "user")
    return normal(next(asked, messages[0].content if messages else ""))
