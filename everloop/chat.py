"""Chat templates: a conversation becomes the prompt that the model was tuned on.

The same Jinja text serves training (through transformers, which reads the generation marks) and
serving (here, without transformers). Templates are data from a model folder, so they run in a
sandbox.
"""

import datetime
from collections.abc import Sequence
from pathlib import Path

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from everloop.errors import ArtifactError, DataError
from everloop.records import Message

FILE_NAME = "chat_template.jinja"

# ChatML's turns; the answer stands between generation marks so that a trainer can mask the rest.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class ChatTemplate:
    """A compiled chat template.

    Raises:
        ArtifactError: the text is no Jinja template.
    """

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationMarks, "jinja2.ext.loopcontrols"],
        )
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
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
        return cls(path.read_text(encoding="utf-8"), bos_token=bos_token, eos_token=eos_token)

    def render(self, messages: Sequence[Message]) -> str:
        """Write the prompt for the next answer.

        Raises:
            DataError: the template refuses this sequence of roles.
        """
        turns = [message.model_dump() for message in messages]
        try:
            return self._template.render(messages=turns, add_generation_prompt=True, **self._tokens)
        except TemplateError as error:
            raise DataError(
                f"the model's chat template refuses these messages: {error}."
            ) from error


class _GenerationMarks(Extension):
    """`{% generation %}…{% endgeneration %}` marks the answer for a trainer; a server prints it."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as an instance variable

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> None:
    raise TemplateError(message)
