"""What an answer must be: `response_format` of the API, `structured_outputs` of vLLM."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from serving.engine.sampling_params import StructuredOutput
from serving.openai_api.errors import ApiError
from serving.openai_api.request_body import Items, RequestBody
from serving.openai_api.unsupported import STRUCTURED_OUTPUTS, refuse_unsupported


class JsonSchemaFormat(RequestBody):
    """A named schema that the answer follows; it is enforced whether or not `strict` is set."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(RequestBody):
    """Text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ApiError(
                "response_format.json_schema comes with the type json_schema, and only with it.",
                param="response_format.json_schema",
            )
        return self

    @property
    def structured(self) -> StructuredOutput | None:
        """In the engine's terms; None for text."""
        if self.type == "text":
            return None
        if self.json_schema is None or self.json_schema.schema_ is None:
            return StructuredOutput("json_object")
        return StructuredOutput("json_schema", json.dumps(self.json_schema.schema_))


def _check_members(value: object) -> object:
    if isinstance(value, dict):
        refuse_unsupported(value, STRUCTURED_OUTPUTS, "structured_outputs.")
    return value


class StructuredOutputs(RequestBody):
    """Exactly one of these. Field names as in vLLM."""

    json_: dict[str, Any] | str | None = Field(None, alias="json", description="A schema.")
    json_object: Literal[True] | None = None
    regex: str | None = Field(None, min_length=1, description="The whole answer matches it.")
    choice: Items[Annotated[str, Field(min_length=1)]] | None = Field(None, min_length=1)
    grammar: str | None = Field(None, min_length=1, description="In the notation of Lark.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ApiError(
                "structured_outputs holds exactly one of json, json_object, regex, choice and "
                "grammar.",
                param="structured_outputs",
            )
        return self

    @property
    def structured(self) -> StructuredOutput:
        """In the engine's terms."""
        if self.json_ is not None:
            schema = self.json_ if isinstance(self.json_, str) else json.dumps(self.json_)
            return StructuredOutput("json_schema", schema)
        if self.regex is not None:
            return StructuredOutput("regex", self.regex)
        if self.choice is not None:
            return StructuredOutput("lark", "start: " + " | ".join(map(lark_string, self.choice)))
        if self.grammar is not None:
            return StructuredOutput("lark", self.grammar)
        return StructuredOutput("json_object")


StructuredOutputsField = Annotated[StructuredOutputs, BeforeValidator(_check_members)]


def lark_string(text: str) -> str:
    """Write a text as a literal of a Lark grammar, whose escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False)
