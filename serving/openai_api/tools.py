"""The tools of a chat: what a client may send, and the grammar that holds a model to it.

How calls look in a model's text is in tool_formats.py.
"""

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from serving.engine.sampling_params import StructuredOutput
from serving.openai_api.errors import ApiError
from serving.openai_api.request_body import RequestBody
from serving.openai_api.structured import lark_string
from serving.openai_api.tool_formats import ToolFormat

FunctionName = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")

# One way to write JSON, the way of the templates: free white space would let a model write it for
# ever. Source: llguidance, docs/json_schema.md.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_NO_ARGUMENTS: dict[str, Any] = {"type": "object", "additionalProperties": False}


class Function(RequestBody):
    """A function as the model gets to know it."""

    name: str = FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="JSON schema of an object.")
    strict: bool | None = Field(None, description="Hold the arguments to the schema.")

    @property
    def arguments_schema(self) -> dict[str, Any]:
        """What the arguments must be; a function without parameters takes none.

        Source: OpenAI's API reference, `function.parameters`.
        """
        if self.parameters is None:
            return _NO_ARGUMENTS
        # Without an address of its own: among the definitions its references would go by that.
        named = {key: value for key, value in self.parameters.items() if key != "$id"}
        return {"type": "object"} | named


class Tool(RequestBody):
    """A function tool, the only kind."""

    type: Literal["function"]
    function: Function

    def to_template(self) -> dict[str, Any]:
        """The tool as templates write it."""
        function = self.function.model_dump(exclude_none=True, exclude={"strict"})
        return {"type": "function", "function": function}


class NamedFunction(RequestBody):
    """The name of a function."""

    name: str


class NamedToolChoice(RequestBody):
    """The function that must be called."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedToolChoice


def check_choice(choice: ToolChoice | None, tools: Sequence[Tool]) -> None:
    """Refuse a choice among tools that are not there.

    Raises:
        ApiError: names the field.
    """
    if isinstance(choice, NamedToolChoice):
        known = [tool.function.name for tool in tools]
        if choice.function.name not in known:
            raise ApiError(
                f"tool_choice names the function {choice.function.name!r}; tools has "
                f"{', '.join(known) or 'none'}.",
                param="tool_choice",
            )
    elif choice == "required" and not tools:
        raise ApiError("tool_choice required needs tools.", param="tool_choice")


def callable_tools(choice: ToolChoice | None, tools: Sequence[Tool]) -> list[Tool]:
    """The tools that the answer may call."""
    if choice == "none":
        return []
    if isinstance(choice, NamedToolChoice):
        return [tool for tool in tools if tool.function.name == choice.function.name]
    return list(tools)


def tool_constraint(
    style: ToolFormat,
    tools: Sequence[Tool],
    choice: ToolChoice | None,
    answer: StructuredOutput | None,
    *,
    is_parallel: bool,
) -> StructuredOutput | None:
    """The grammar of an answer that may or must call tools; None where any text will do.

    Args:
        style: how the model writes calls.
        tools: those that may be called.
        choice: a call is a must for `required` and for a named function.
        answer: what an answer without a call must be.
        is_parallel: more than one call is fine.
    """
    is_forced = choice == "required" or isinstance(choice, NamedToolChoice)
    calls = _calls(style, tools, is_parallel=is_parallel)
    if is_forced:
        return StructuredOutput("lark", f"start: calls\n{calls}")
    if answer is not None:
        return StructuredOutput("lark", f"start: calls | answer\n{calls}{_answer(answer)}")
    if not any(tool.function.strict for tool in tools):
        return None
    return StructuredOutput("lark", _free_text(style, is_parallel=is_parallel) + calls)


def _free_text(style: ToolFormat, *, is_parallel: bool) -> str:
    """The start of a grammar in which calls come after any text, or in its place."""
    if not style.is_inline:
        return "start: TEXT | calls\nTEXT: /([^{\\[](.|\\n)*)?/\n"
    # Lazy: it ends where the opener first ends. Source: llguidance, docs/syntax.md.
    begin = style.begin.removeprefix(style.openers[0])
    end = lark_string(style.end)
    return (
        f"start: tagged{'*' if is_parallel else '?'} TEXT\nTEXT: /(.|\\n)*/\n"
        f"before[lazy]: /(.|\\n)*{style.openers[0]}/\n"
        f"tagged: before {lark_string(begin)} call {end}\n"
    )


def _calls(style: ToolFormat, tools: Sequence[Tool], *, is_parallel: bool) -> str:
    more = f" ({lark_string(style.between)} call)*" if is_parallel else ""
    begin, end = (lark_string(text) if text else "" for text in (style.begin, style.end))
    schema = {
        "anyOf": [_call_schema(style, tool, number) for number, tool in enumerate(tools)],
        "$defs": {
            f"tool{number}": _moved(tool.function.arguments_schema, number)
            for number, tool in enumerate(tools)
        },
        "x-guidance": _SPACING,
    }
    return f"calls: {begin} call{more} {end}\ncall: %json {json.dumps(schema)}\n"


def _call_schema(style: ToolFormat, tool: Tool, number: int) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "name": {"const": tool.function.name},
            style.arguments: {"$ref": f"#/$defs/tool{number}"},
        },
        "required": ["name", style.arguments],
        "additionalProperties": False,
    }


def _moved(schema: Any, number: int) -> Any:
    """A schema whose references to its own root follow it to its place among the definitions.

    Those to an anchor need not: a name has no place.
    """
    if isinstance(schema, list):
        return [_moved(member, number) for member in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, number) for key, value in schema.items()}
    reference = moved.get("$ref")
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        moved["$ref"] = f"#/$defs/tool{number}{reference[1:]}"
    return moved


def _answer(answer: StructuredOutput) -> str:
    schemas = {"json_object": '{"type": "object"}', "json_schema": answer.text}
    if answer.kind not in schemas:
        raise ApiError(
            "structured_outputs beside tools may be json or json_object only.",
            param="structured_outputs",
        )
    return f"answer: %json {schemas[answer.kind]}\n"
