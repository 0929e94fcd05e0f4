"""The bodies of inference requests: the fields that are supported, with the API's own limits.

Null is taken for absent, unknown fields pass, and no value is converted silently. What is known but
not supported is in unsupported.py; replies are in responses.py.
"""

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError, from_json

from everloop.records import Message
from serving.openai_api.errors import ApiError
from serving.openai_api.unsupported import MESSAGE, Table, refuse_unsupported

_INT64 = 2**63


class RequestBody(BaseModel):
    """Base of every request body."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class TextPart(RequestBody):
    """One part of a message whose content is a list."""

    type: Literal["text"]
    text: str


def _join_parts(content: object) -> object:
    """Put text parts on lines of their own; leave anything else to the validation of a string."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, dict) else part
            raise PydanticCustomError(
                "part", "only parts of the type text are supported, not {kind}", {"kind": kind}
            )
    return "\n".join(TextPart.model_validate(part).text for part in content)


class ChatMessage(RequestBody):
    """One turn as clients send it."""

    role: Literal["developer", "system", "user", "assistant"]
    content: Annotated[
        str, BeforeValidator(_join_parts, json_schema_input_type=str | list[TextPart])
    ]

    def to_record(self) -> Message:
        """The turn as templates and the store know it: a developer speaks as the system."""
        return Message(
            role="system" if self.role == "developer" else self.role, content=self.content
        )


class StreamOptions(RequestBody):
    """What a stream carries besides its text."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


StopString = Annotated[str, Field(min_length=1)]
Stop = Annotated[
    list[StopString],
    Field(max_length=4),
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
]
MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


class GenerationRequest(RequestBody):
    """The fields that both inference routes have."""

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, description="-1 and 0 switch it off.")
    seed: int | None = Field(None, ge=-_INT64, lt=_INT64)
    stop: Stop | None = None
    ignore_eos: bool | None = Field(None, description="Generate max_tokens whatever comes.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    metadata: dict[MetadataKey, MetadataValue] | None = Field(None, max_length=16)
    store: bool | None = Field(None, description="False keeps no text of this request.")

    @model_validator(mode="after")
    def _check_stream_options(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ApiError("stream_options needs stream: true.", param="stream_options")
        return self

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatCompletionRequest(GenerationRequest):
    """Body of POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _check_one_limit(self) -> Self:
        old, new = self.max_tokens, self.max_completion_tokens
        if old is not None and new is not None and old != new:
            raise ApiError(
                f"max_tokens ({old}) and max_completion_tokens ({new}) differ. Send one of them.",
                param="max_tokens",
            )
        return self

    @property
    def answer_limit(self) -> int | None:
        """Most tokens the client wants, if it says so."""
        return self.max_completion_tokens or self.max_tokens


def _one_prompt(value: object) -> object:
    """Unwrap a list of one prompt; refuse a list of several."""
    if not isinstance(value, list) or not value or isinstance(value[0], int):
        return value
    if len(value) > 1:
        raise PydanticCustomError("prompts", "one prompt per request is supported")
    return value[0]


def _check_prompt(value: object) -> object:
    if isinstance(value, str) or (
        isinstance(value, list)
        and value
        and all(isinstance(token, int) and not isinstance(token, bool) for token in value)
    ):
        return value
    raise PydanticCustomError("prompt", "expected a string or a list of token ids, not empty")


PromptInput = str | list[str] | list[int] | list[list[int]]
Prompt = Annotated[
    str | list[int],
    BeforeValidator(_check_prompt),
    BeforeValidator(_one_prompt, json_schema_input_type=PromptInput),
]


class CompletionRequest(GenerationRequest):
    """Body of POST /v1/completions."""

    prompt: Prompt


B = TypeVar("B", bound=RequestBody)


def parse_body(body: bytes, schema: type[B], unsupported: Table | None = None) -> B:
    """Read a request body.

    Raises:
        ApiError: no JSON object, or a field that is known and not supported.
        pydantic.ValidationError: a field is missing, or of a wrong type or range.
    """
    try:
        fields: Any = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(f"The body is not valid JSON: {error}.", code="invalid_json") from error
    if not isinstance(fields, dict):
        raise ApiError("The body must be a JSON object.", code="invalid_json")
    refuse_unsupported(fields, unsupported or {})
    messages = fields.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else []):
        if isinstance(message, dict):
            refuse_unsupported(message, MESSAGE, f"messages[{index}].")
    return schema.model_validate(fields)
