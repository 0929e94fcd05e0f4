"""How models write tool calls: one row per notation, chosen by what the chat template contains."""

from dataclasses import dataclass

from everloop.chat import ChatTemplate


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """A notation. Every call is a JSON object with `name` and an object of arguments.

    Attributes:
        marker: what a template of this notation contains.
        begin, between, end: around and between the calls, as the model is held to write them.
        openers: texts that may stand before the first call.
        fillers: texts that may follow a call, white space besides.
        is_inline: the first opener, anywhere in the answer, says that a call comes; else an answer
            calls tools only if it begins with that.
        arguments: key of the arguments.
        id_prefix, id_length: how calls are named; templates may insist on it.
    """

    marker: str
    begin: str
    between: str
    end: str
    openers: tuple[str, ...]
    fillers: tuple[str, ...]
    is_inline: bool
    arguments: str = "arguments"
    id_prefix: str = "call_"
    id_length: int = 24  # after the prefix


HERMES = ToolFormat(
    marker="<tool_call>",
    begin="<tool_call>\n",
    between="\n</tool_call>\n<tool_call>\n",
    end="\n</tool_call>",
    openers=("<tool_call>",),
    fillers=("</tool_call>", "<tool_call>"),
    is_inline=True,
)
MISTRAL = ToolFormat(
    marker="[TOOL_CALLS]",
    begin="[",
    between=", ",
    end="]",
    openers=("[TOOL_CALLS]", "["),  # the first is a special token, whose text is not shown
    fillers=(",", "]"),
    is_inline=False,
    id_prefix="",
    id_length=9,
)
LLAMA = ToolFormat(
    marker='"parameters": ',
    begin="",
    between="; ",
    end="",
    openers=("<|python_tag|>",),
    fillers=(";",),
    is_inline=False,
    arguments="parameters",
)
TOOL_FORMATS = (HERMES, MISTRAL, LLAMA)
# Qwen3-Coder and its kin: the tags of Hermes around XML.
_XML_CALL = "<function="


def tool_format(template: ChatTemplate) -> ToolFormat | None:
    """The notation of a template; None if it writes no tools, or in a way that is not known."""
    if not template.takes_tools or _XML_CALL in template.source:
        return None
    return next((style for style in TOOL_FORMATS if style.marker in template.source), None)
