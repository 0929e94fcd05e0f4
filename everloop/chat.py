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

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from everloop.errors import ArtifactError, DataError
from everloop.records import Message
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


class ChatTemplate:
    """A compiled chat template.

    Attributes:
        source: its text.

    Raises:
        ArtifactError: the text is no Jinja template.
    """

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        self.source = source
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationMarks, "jinja2.ext.loopcontrols"],
        )
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        environment.filters["tojson"] = _to_json
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ArtifactError(f"the chat template does not compile: {error}.") from error
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
            DataError: the template refuses this sequence of roles.
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
            DataError: the template refuses this sequence of roles.
        """
        try:
            return self._template.render(
                {
                    **(variables or {}),
                    **self._tokens,
                    "messages": turns,
                    "tools": list(tools) or None,
                    "add_generation_prompt": add_generation_prompt,
                }
            )
        except (TemplateError, TypeError) as error:
            raise DataError(
                f"the model's chat template refuses these messages: {error}."
            ) from error


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


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # As transformers has it: jinja2's own filter writes < and > as escapes, for web pages.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


class _GenerationMarks(Extension):
    """`{% generation %}…{% endgeneration %}` marks the answer for a trainer; a server prints it."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as an instance variable

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> None:
    raise TemplateError(message)
