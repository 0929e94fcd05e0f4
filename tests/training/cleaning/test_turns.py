from datatrove.data import Document

from training.cleaning.length import LengthFilter
from training.cleaning.personal_data import MaskPersonalData
from training.cleaning.turns import EachTurn, TextOnly, join_turns


def chat() -> Document:
    turns = [{"role": "user", "content": "I am a@b.org"}, {"role": "assistant", "content": "ok"}]
    return Document(text=join_turns(turns), id="chat", metadata={"messages": turns})


def test_each_turn_formats_texts_and_every_turn() -> None:
    stream = iter([Document(text="x@y.org", id="text"), chat()])
    text, conversation = EachTurn(MaskPersonalData())(stream)
    assert text.text == "<EMAIL>"
    assert [turn["content"] for turn in conversation.metadata["messages"]] == [
        "I am <EMAIL>",
        "ok",
    ]
    assert conversation.text == "user: I am <EMAIL>\n\nassistant: ok"


def test_text_only_asks_about_texts_alone() -> None:
    block = TextOnly(LengthFilter(1000, 2000))
    assert block.filter(Document(text="short", id="text")) == (False, "too_short")
    assert block.filter(chat()) is True
