"""How a request body is read: null is absent, unknown fields pass, no value is converted."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic_core import from_json

from serving.openai_api.errors import ApiError
from serving.openai_api.unsupported import MESSAGE, Table, refuse_unsupported


class RequestBody(BaseModel):
    """Base of every request body and of its parts."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, populate_by_name=True)


B = TypeVar("B", bound=RequestBody)


def parse_body(body: bytes, schema: type[B], unsupported: Table | None = None) -> B:
    """Read a request body.

    Args:
        body: as it came.
        schema: the fields that are supported.
        unsupported: fields that are known and are not.

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
