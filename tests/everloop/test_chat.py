"""The chat template gives serving exactly the prompt that training saw."""

from pathlib import Path

import pytest

from everloop.chat import CHAT_TEMPLATE, ChatTemplate
from everloop.errors import ArtifactError, DataError
from everloop.records import Message

CONVERSATION = (
    Message(role="system", content="Be short."),
    Message(role="user", content="Hi"),
    Message(role="assistant", content="Hello."),
    Message(role="user", content="Bye"),
)


def test_render_writes_the_turns_and_opens_the_answer() -> None:
    assert ChatTemplate(CHAT_TEMPLATE).render(CONVERSATION) == (
        "<|im_start|>system\nBe short.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_render_agrees_with_transformers() -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    turns = [message.model_dump() for message in CONVERSATION]
    rendered, _ = utils.render_jinja_template(
        conversations=[turns], chat_template=CHAT_TEMPLATE, add_generation_prompt=True
    )
    assert ChatTemplate(CHAT_TEMPLATE).render(CONVERSATION) == rendered[0]


def test_template_that_does_not_compile_is_refused() -> None:
    with pytest.raises(ArtifactError, match="does not compile"):
        ChatTemplate("{% for %}")


def test_template_may_refuse_messages() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(DataError, match="roles must alternate"):
        template.render(CONVERSATION)


def test_template_cannot_reach_the_interpreter() -> None:
    template = ChatTemplate("{{ messages.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(DataError):
        template.render(CONVERSATION)


def test_load_without_a_template_is_none(tmp_path: Path) -> None:
    assert ChatTemplate.load(tmp_path) is None
