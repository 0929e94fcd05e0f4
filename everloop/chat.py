"""Chat templates: a conversation becomes the prompt that the model was tuned on.

The same Jinja text serves training (through transformers, which reads the generation marks) and
serving (here, without transformers). Templates are data from a model folder, so they run in a
sandbox.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from everloop.errors import ArtifactError, DataError, TemplateLimitError
from everloop.records import FunctionCall, Message, ToolCall
from everloop.template_sandbox import TemplateSandbox, refuse
from everloop.text_files import read_text_file

FILE_NAME = "chat_template.jinja"

# ChatML's turns; the answer stands between generation marks so that a trainer can mask the rest.
# Tools are in the notation of Hermes: functions in <tools> of the system's turn, calls in
# <tool_call> of the answer, results in <tool_response> of a user's turn.
CHAT_TEMPLATE = (
    "{% if tools %}"
    "{{ '<|im_start|>system\\n' }}"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\\n\\n' }}{% endif %}"
    "{{ 'Functions that you can call:\\n<tools>\\n' }}"
    "{% for tool in tools %}{{ tool | tojson }}{{ '\\n' }}{% endfor %}"
    "{{ '</tools>\\nA call is written as\\n<tool_call>\\n"
    '{"name": "function", "arguments": {"parameter": "value"}}'
    "\\n</tool_call><|im_end|>\\n' }}"
    "{% endif %}"
    "{% for message in messages %}"
    "{% if tools and loop.first and message['role'] == 'system' %}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<|im_start|>assistant\\n' }}"
    "{% generation %}{{ message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{% if message['content'] or not loop.first %}{{ '\\n' }}{% endif %}"
    "{{ '<tool_call>\\n{\"name\": ' }}{{ call['function']['name'] | tojson }}"
    "{{ ', \"arguments\": ' }}{{ call['function']['arguments'] | tojson }}"
    "{{ '}\\n</tool_call>' }}"
    "{% endfor %}{{ '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% elif message['role'] == 'tool' %}"
    "{% if loop.first or loop.previtem['role'] != 'tool' %}{{ '<|im_start|>user\\n' }}{% endif %}"
    "{{ '<tool_response>\\n' + message['content'] + '\\n</tool_response>' }}"
    "{% if loop.last or loop.nextitem['role'] != 'tool' %}{{ '<|im_end|>' }}{% endif %}{{ '\\n' }}"
    "{% else %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


# Conversations that a template is tried on when a model is imported.
_USER = Message(role="user", content="Hi")
_CALL = ToolCall(id="call00001", function=FunctionCall(name="weather", arguments='{"city": "A"}'))
_TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Temperature in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
_SAMPLES: tuple[tuple[tuple[Message, ...], tuple[Mapping[str, Any], ...]], ...] = (
    ((_USER,), ()),
    ((Message(role="system", content="Be short."), _USER), ()),
    ((_USER, Message(role="assistant", content="Hello."), _USER), ()),
    ((_USER,), (_TOOL,)),
    (
        (
            _USER,
            Message(role="assistant", content="", tool_calls=(_CALL,)),
            Message(role="tool", content="3", tool_call_id=_CALL.id),
        ),
        (_TOOL,),
    ),
)
_MAX_REASON = 300
_MAX_TIME_FORMAT = 256


class ChatTemplate:
    """A compiled chat template.

    Attributes:
        source: its text.

    Raises:
        ArtifactError: the text is no Jinja template, or uses what the sandbox has not.
    """

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        self.source = source
        self._sandbox = TemplateSandbox()
        self._sandbox.globals["raise_exception"] = refuse
        self._sandbox.globals["strftime_now"] = _now
        try:
            self._template = self._sandbox.compile_text(source)
        except Exception as error:  # nesting of any depth raises what the parser happens to raise
            raise ArtifactError(f"the chat template does not compile: {_reason(error)}.") from error
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}

    @classmethod
    def load(
        cls, folder: Path, *, bos_token: str = "", eos_token: str = ""
    ) -> "ChatTemplate | None":
        """Read a model version's template; None when it has none (a plain completion model)."""
        path = folder / FILE_NAME
        if not path.is_file():
            return None
        return cls(read_text_file(path), bos_token=bos_token, eos_token=eos_token)

    @property
    def takes_tools(self) -> bool:
        """Whether the template writes the functions that the model may call."""
        return "tools" in self.source

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        add_generation_prompt: bool = True,
    ) -> str:
        """Write the prompt for the next answer.

        Args:
            messages: the conversation.
            tools: functions that the model may call, as the API names them.
            add_generation_prompt: open the turn of the answer.

        Raises:
            DataError: the template refuses this sequence of roles, or was stopped.
        """
        return self.render_turns(
            template_turns(messages), tools, add_generation_prompt=add_generation_prompt
        )

    def render_turns(
        self,
        turns: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Write the prompt from turns that `template_turns` has made.

        Args:
            turns: the conversation.
            tools: functions that the model may call.
            add_generation_prompt: open the turn of the answer.
            variables: of this template's own, such as Qwen3's enable_thinking.

        Raises:
            DataError: the template refuses this sequence of roles, or was stopped.
        """
        variables = {
            **(variables or {}),
            **self._tokens,
            "messages": turns,
            "tools": list(tools) or None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._sandbox.render(self._template, variables)
        except TemplateLimitError as error:
            raise TemplateLimitError(
                f"the model's chat template was stopped: {error}. Send fewer messages, or import "
                "the model with another template."
            ) from error
        except Exception as error:  # a template can divide by zero, recurse, or worse
            raise DataError(
                f"the model's chat template refuses these messages: {_reason(error)}."
            ) from error

    def check(self) -> None:
        """Try the template on small conversations, as an import does.

        Raises:
            ArtifactError: it refuses them all, or does too much for one of them.
        """
        refusals: list[DataError] = []
        for messages, tools in _SAMPLES:
            try:
                self.render(messages, tools)
            except TemplateLimitError as error:
                raise ArtifactError(f"the chat template cannot be used: {error}") from error
            except DataError as error:
                refusals.append(error)
        if len(refusals) == len(_SAMPLES):  # a template may refuse roles and tools, but not all
            raise ArtifactError(f"the chat template cannot be used: {refusals[0]}") from refusals[0]


def template_turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The conversation as templates read it, in training and in serving alike.

    The arguments of a call become the object that their JSON describes, so that every template
    writes them in its own way; what is no object stays text. A result is given the name of the
    function that was called, which some templates write and clients leave out.
    """
    turns = [message.model_dump(mode="json") for message in messages]
    names: dict[str, str] = {}
    for turn in turns:
        for call in turn.get("tool_calls", ()):
            function = call["function"]
            function["arguments"] = _object_of(function["arguments"])
            names[call["id"]] = function["name"]
        if turn["role"] == "tool" and turn.get("tool_call_id") in names:
            turn.setdefault("name", names[turn["tool_call_id"]])
    return turns


def _object_of(arguments: str) -> dict[str, Any] | str:
    try:
        value = json.loads(arguments)
    except ValueError:
        return arguments
    return value if isinstance(value, dict) else arguments


def _now(form: str) -> str:
    if len(form) > _MAX_TIME_FORMAT:
        raise TemplateLimitError(f"strftime_now has a format of {len(form):,} characters")
    return datetime.datetime.now().strftime(form)


def _reason(error: Exception) -> str:
    """What an exception says, in one line, with its kind where the words alone say too little."""
    text = " ".join(str(error).split())[:_MAX_REASON]
    known = isinstance(error, TemplateError | TemplateLimitError)
    return text.rstrip(".") if known and text else f"{type(error).__name__}: {text}".rstrip(": .")
