"""Body of POST /v1/chat/completions: the conversation, its tools, and what the answer may be."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from everloop.records import FunctionCall, Message, ToolCall
from serving.openai_api.errors import ApiError
from serving.openai_api.generation_request import GenerationRequest
from serving.openai_api.request_body import Items, RequestBody, at_most
from serving.openai_api.tools import Tool, ToolChoice, check_choice


class TextPart(RequestBody):
    """One part of a message whose content is a list."""

    type: Literal["text"]
    text: str


def _join_parts(content: object) -> object:
    """Put text parts on lines of their own; leave anything else to the validation of a string."""
    if not isinstance(content, list):
        return content
    texts = []
    for index, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, dict) else part
            raise PydanticCustomError(
                "part",
                "only parts of the type text are supported, not {kind}",
                {"kind": str(kind)[:60], "index": index},
            )
        if not isinstance(part.get("text"), str):
            raise PydanticCustomError("part", "a part has its text as text", {"index": index})
        texts.append(part["text"])
    return "\n".join(texts)


class CalledFunction(RequestBody):
    """What an earlier call called."""

    name: str
    arguments: str


class EarlierCall(RequestBody):
    """A call in an assistant's message."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction

    def to_record(self) -> ToolCall:
        """The call as templates and the store know it."""
        function = FunctionCall(name=self.function.name, arguments=self.function.arguments)
        return ToolCall(id=self.id, function=function)


class ChatMessage(RequestBody):
    """One turn as clients send it."""

    role: Literal["developer", "system", "user", "assistant", "tool"]
    tool_calls: Items[EarlierCall] | None = Field(None, description="Of an assistant.")
    tool_call_id: str | None = Field(None, validate_default=True, description="Of a tool.")
    name: str | None = Field(None, description="Of the speaker, for templates that write it.")
    content: Annotated[
        str, BeforeValidator(_join_parts, json_schema_input_type=str | list[TextPart] | None)
    ] = Field(None, validate_default=True)

    @field_validator("tool_calls")
    @classmethod
    def _check_calls(
        cls, value: list[EarlierCall] | None, info: ValidationInfo
    ) -> list[EarlierCall] | None:
        if value and info.data.get("role") != "assistant":
            raise PydanticCustomError("calls", "only an assistant calls tools")
        return value or None

    @field_validator("tool_call_id")
    @classmethod
    def _check_call_id(cls, value: str | None, info: ValidationInfo) -> str | None:
        role = info.data.get("role", "tool" if value else "")
        if (role == "tool") != (value is not None):
            raise PydanticCustomError("call_id", "a tool's message has it, and no other")
        return value

    @field_validator("content", mode="before")
    @classmethod
    def _check_content(cls, value: object, info: ValidationInfo) -> object:
        # Missing and null are one thing: an assistant that calls tools may say nothing.
        if value is None and not info.data.get("tool_calls", True):
            raise PydanticCustomError("content", "expected text")
        return "" if value is None else value

    def to_record(self) -> Message:
        """The turn as templates and the store know it: a developer speaks as the system."""
        calls = self.tool_calls
        return Message(
            role="system" if self.role == "developer" else self.role,
            content=self.content,
            name=self.name,
            tool_calls=None if calls is None else tuple(call.to_record() for call in calls),
            tool_call_id=self.tool_call_id,
        )


# What the server itself gives to a template.
_TAKEN = frozenset({"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"})


def _check_variables(value: dict[str, Any]) -> dict[str, Any]:
    for name in value:
        if name in _TAKEN:
            raise ApiError(
                f"chat_template_kwargs.{name} is given by the server.",
                param=f"chat_template_kwargs.{name}",
            )
    return value


TemplateVariables = Annotated[
    dict[Annotated[str, Field(max_length=64)], bool | int | float | str],
    at_most(16),
    Field(description="Of the model's template, such as Qwen3's enable_thinking."),
    AfterValidator(_check_variables),
]


class ChatCompletionRequest(GenerationRequest):
    """The fields of a chat completion."""

    prompt_field: ClassVar[str] = "messages"

    messages: Items[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: Items[Tool] | None = Field(None, max_length=128)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: TemplateVariables | None = None

    @model_validator(mode="after")
    def _check_one_limit(self) -> Self:
        old, new = self.max_tokens, self.max_completion_tokens
        if old is not None and new is not None and old != new:
            raise ApiError(
                f"max_tokens ({old}) and max_completion_tokens ({new}) differ. Send one of them.",
                param="max_tokens",
            )
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError("top_logprobs needs logprobs: true.", param="top_logprobs")
        check_choice(self.tool_choice, self.tools or [])
        return self

    @property
    def wanted_tokens(self) -> int | None:
        """Most tokens the client wants, if it says so."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def offered_tools(self) -> tuple[dict[str, Any], ...] | None:
        """The tools that the prompt shows, as templates write them; None for none."""
        if not self.tools or self.tool_choice == "none":
            return None
        return tuple(tool.to_template() for tool in self.tools)

    @property
    def constraint_field(self) -> str:
        """The field that the constraint comes from."""
        return "tools" if self.offered_tools and not self.constraint else super().constraint_field

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives to each token that are wanted; None when no logprobs are."""
        return (self.top_logprobs or 0) if self.logprobs else None
