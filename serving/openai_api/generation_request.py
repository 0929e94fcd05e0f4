"""The fields that chats and completions have in common, with the API's own limits."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from serving.engine.sampling_params import MAX_STOP_LENGTH, MAX_STOPS, StructuredOutput
from serving.openai_api.errors import ApiError
from serving.openai_api.request_body import Items, RequestBody, at_most
from serving.openai_api.structured import ResponseFormat, StructuredOutputsField

_INT64 = 2**63
_MAX_CHOICES = 128  # Source: OpenAI's specification of n.


class StreamOptions(RequestBody):
    """What a stream carries besides its text."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
Stop = Annotated[
    Items[StopString],
    Field(max_length=MAX_STOPS),
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
]
MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]
TokenKey = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
TokenId = Annotated[int, Field(ge=0)]


class GenerationRequest(RequestBody):
    """The fields that both inference routes have."""

    prompt_field: ClassVar[str]  # where the prompt stands, for the messages of errors

    model: str
    max_tokens: int | None = Field(None, ge=1)
    min_tokens: int | None = Field(None, ge=0)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, description="-1 and 0 switch it off.")
    min_p: float | None = Field(None, ge=0, le=1)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, ge=1e-6, le=10)
    logit_bias: Annotated[dict[TokenKey, Bias] | None, at_most(1024)] = None
    seed: int | None = Field(None, ge=-_INT64, lt=_INT64)
    n: int | None = Field(None, ge=1, le=_MAX_CHOICES)
    stop: Stop | None = None
    stop_token_ids: Items[TokenId] | None = Field(None, max_length=64)
    ignore_eos: bool | None = Field(None, description="Generate max_tokens whatever comes.")
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputsField | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue] | None, at_most(16)] = None
    user: str | None = Field(None, max_length=512, description="Kept as metadata.user.")
    safety_identifier: str | None = Field(None, max_length=512, description="The same.")
    store: bool | None = Field(None, description="False keeps no text of this request.")

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ApiError("stream_options needs stream: true.", param="stream_options")
        if self.structured_outputs is not None and self.structured is not None:
            raise ApiError(
                "Send either response_format or structured_outputs.", param="structured_outputs"
            )
        return self

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def wanted_tokens(self) -> int | None:
        """Most tokens the client wants, if it says so."""
        return self.max_tokens

    @property
    def num_prompts(self) -> int:
        """Prompts that are answered."""
        return 1

    @property
    def num_choices(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    @property
    def num_candidates(self) -> int:
        """Answers to each prompt that are generated."""
        return self.num_choices

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives to each token that are wanted; None when no logprobs are."""
        return None

    @property
    def structured(self) -> StructuredOutput | None:
        """What `response_format` asks of the answer."""
        return self.response_format.structured if self.response_format else None

    @property
    def constraint(self) -> StructuredOutput | None:
        """What the answer must be, by either field."""
        return self.structured_outputs.structured if self.structured_outputs else self.structured

    @property
    def constraint_field(self) -> str:
        """The field that the constraint comes from."""
        return "structured_outputs" if self.structured_outputs else "response_format"

    @property
    def offered_tools(self) -> tuple[dict[str, Any], ...] | None:
        """The tools that the answer may call, as templates write them; None for none."""
        return None

    @property
    def labels(self) -> dict[str, str]:
        """The metadata that is kept, with the user in it if the request names one."""
        labels = dict(self.metadata or {})
        user = self.user or self.safety_identifier
        if user:
            labels.setdefault("user", user)
        return labels
