"""Body of POST /v1/completions: one prompt or many, as text or as token ids."""

from typing import Annotated, ClassVar, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from serving.openai_api.errors import ApiError
from serving.openai_api.generation_request import GenerationRequest
from serving.openai_api.request_body import Items

_MAX_BEST_OF = 20  # Source: OpenAI's specification of best_of.


def _as_prompts(value: object) -> object:
    """Make a list of prompts of whatever form the request has."""
    if isinstance(value, str) or (isinstance(value, list) and value and _is_token(value[0])):
        value = [value]
    if not isinstance(value, list) or not value:
        raise PydanticCustomError("prompt", "expected text, token ids, or a list of either")
    for prompt in value:
        is_ids = isinstance(prompt, list) and prompt and all(map(_is_token, prompt))
        if not is_ids and not isinstance(prompt, str):
            raise PydanticCustomError("prompt", "expected text, token ids, or a list of either")
    return value


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


Prompts = Annotated[
    Items[str | Items[int]],
    BeforeValidator(
        _as_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]]
    ),
]


class CompletionRequest(GenerationRequest):
    """The fields of a text completion."""

    prompt_field: ClassVar[str] = "prompt"

    prompt: Prompts
    max_tokens: int | None = Field(None, ge=0, description="0 only with echo: to score the prompt.")
    best_of: int | None = Field(None, ge=1, le=_MAX_BEST_OF)
    echo: bool | None = Field(None, description="The text begins with the prompt.")
    logprobs: int | None = Field(None, ge=0, le=5)

    @model_validator(mode="after")
    def _check_best_of(self) -> Self:
        if self.best_of is not None and self.best_of < self.num_choices:
            raise ApiError(
                f"best_of ({self.best_of}) must be at least n ({self.num_choices}).",
                param="best_of",
            )
        if self.stream and (self.best_of or 0) > self.num_choices:
            raise ApiError(
                "The best answers are known at the end: best_of above n cannot be streamed.",
                param="best_of",
            )
        if self.max_tokens == 0 and not self.echo:
            raise ApiError("max_tokens 0 needs echo: true.", param="max_tokens")
        return self

    @property
    def num_prompts(self) -> int:
        """Prompts that are answered."""
        return len(self.prompt)

    @property
    def num_candidates(self) -> int:
        """Answers to each prompt that are generated."""
        return max(self.best_of or 1, self.num_choices)

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives to each token that are wanted; None when no logprobs are."""
        return self.logprobs
