"""The chat template gives serving exactly the prompt that training saw."""

from pathlib import Path

import pytest

from everloop.chat import CHAT_TEMPLATE, ChatTemplate, template_turns
from everloop.errors import ArtifactError, DataError
from everloop.records import FunctionCall, Message, ToolCall

CONVERSATION = (
    Message(role="system", content="Be short."),
    Message(role="user", content="Hi"),
    Message(role="assistant", content="Hello."),
    Message(role="user", content="Bye"),
)


def call(name: str, arguments: str) -> ToolCall:
    return ToolCall(id="call_1", function=FunctionCall(name=name, arguments=arguments))


TOOLS = (
    {"type": "function", "function": {"name": "weather", "description": "in a <city>, °C"}},
)  # fmt: skip
WITH_CALLS = (
    Message(role="system", content="Be short."),
    Message(role="user", content="Oslo and Rome?"),
    Message(
        role="assistant",
        content="Looking.",
        tool_calls=(call("weather", '{"city":"Oslo"}'), call("weather", '{"city":"Røma"}')),
    ),
    Message(role="tool", content="3", tool_call_id="call_1"),
    Message(role="tool", content="20", tool_call_id="call_2"),
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
    template = ChatTemplate(CHAT_TEMPLATE)
    for messages, tools in ((CONVERSATION, ()), (CONVERSATION, TOOLS), (WITH_CALLS, TOOLS)):
        rendered, _ = utils.render_jinja_template(
            conversations=[template_turns(messages)],
            tools=list(tools) or None,
            chat_template=CHAT_TEMPLATE,
            add_generation_prompt=True,
        )
        assert template.render(messages, tools) == rendered[0]


def test_render_writes_tools_calls_and_results() -> None:
    assert ChatTemplate(CHAT_TEMPLATE).render(WITH_CALLS, TOOLS) == (
        "<|im_start|>system\nBe short.\n\nFunctions that you can call:\n<tools>\n"
        '{"type": "function", "function": {"name": "weather", "description": "in a <city>, °C"}}\n'
        "</tools>\nA call is written as\n<tool_call>\n"
        '{"name": "function", "arguments": {"parameter": "value"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\nOslo and Rome?<|im_end|>\n"
        "<|im_start|>assistant\nLooking.\n"
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Røma"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n3\n</tool_response>\n"
        "<tool_response>\n20\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_result_is_given_the_name_of_its_function() -> None:
    turns = template_turns(WITH_CALLS)
    assert turns[3] == {
        "role": "tool", "content": "3", "name": "weather", "tool_call_id": "call_1",
    }  # fmt: skip
    assert "name" not in turns[4]  # the answer to a call that nobody made


def test_arguments_that_are_no_object_stay_text() -> None:
    broken = Message(role="assistant", content="", tool_calls=(call("f", '{"a": '),))
    assert template_turns([broken])[0]["tool_calls"][0]["function"]["arguments"] == '{"a": '


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
