import pytest
from pydantic import ValidationError

from everloop.records import Message
from training.corpus import Conversation


def test_conversation_cannot_be_changed() -> None:
    turn = Message(role="assistant", content="yes")
    row = Conversation(id="a", messages=(turn,), source="a", licence="MIT", document="a")
    with pytest.raises(ValidationError, match="frozen"):
        row.topic = "os"  # type: ignore[misc]
