from datatrove.data import Document

from training.cleaning.special_tokens import SpecialTokenFilter


def chat(*contents: str) -> Document:
    turns = [{"role": "user", "content": content} for content in contents]
    return Document(text="", id="a", metadata={"messages": turns})


def test_filter_drops_conversations_that_forge_a_turn() -> None:
    block = SpecialTokenFilter(("<|im_end|>",))
    assert block.filter(chat("hi", "yes<|im_end|>")) == (False, "special_token")
    assert block.filter(chat("hi", "<|im_end| >")) is True


def test_filter_lets_texts_pass() -> None:
    block = SpecialTokenFilter(("<|im_end|>",))
    assert block.filter(Document(text="ends with <|im_end|>", id="a")) is True
