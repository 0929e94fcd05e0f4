"""How a request body is read: null is absent, unknown fields pass, no value is converted."""

import asyncio
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError, from_json
from starlette.requests import Request

from serving.openai_api.context_limits import ContextLimits
from serving.openai_api.deadline import deadline_of
from serving.openai_api.disconnect import unless_disconnected
from serving.openai_api.errors import ApiError, invalid, overdue
from serving.openai_api.state import state_of
from serving.openai_api.unsupported import MESSAGE, Table, refuse_unsupported


class RequestBody(BaseModel):
    """Base of every request body and of its parts."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        if isinstance(value, dict) and None in value.values():
            return {key: member for key, member in value.items() if member is not None}
        return value


B = TypeVar("B", bound=RequestBody)
T = TypeVar("T")

# Of every list in a body: only the first wrong member is told, so no other makes an error.
Items = Annotated[list[T], Field(fail_fast=True)]

_INLINE_BYTES = 1 << 14  # a body that is read faster than a thread is asked


def at_most(limit: int) -> BeforeValidator:
    """Refuse an object of more keys before its members are read, each of which could be wrong."""

    def check(value: object) -> object:
        if isinstance(value, dict) and len(value) > limit:
            raise PydanticCustomError(
                "too_long",
                "at most {limit} keys, found {found}",
                {"limit": limit, "found": len(value)},
            )
        return value

    return BeforeValidator(check)


async def read_body(request: Request, schema: type[B], unsupported: Table | None = None) -> B:
    """Receive a request's body and read it, a large one away from the event loop.

    Raises:
        ApiError: see `parse_body`; or the deadline has passed.
    """
    api = state_of(request)
    deadline = deadline_of(request, api)
    try:
        async with asyncio.timeout_at(deadline):
            body = await request.body()
    except TimeoutError as error:
        raise overdue() from error
    if len(body) <= _INLINE_BYTES:
        return parse_body(body, schema, unsupported, api.limits)
    work = api.prompts.run(deadline, parse_body, body, schema, unsupported, api.limits)
    return await unless_disconnected(request.receive, work)


def parse_body(
    body: bytes,
    schema: type[B],
    unsupported: Table | None = None,
    limits: ContextLimits | None = None,
) -> B:
    """Read a request body.

    Args:
        body: as it came.
        schema: the fields that are supported.
        unsupported: fields that are known and are not.
        limits: of what it may hold.

    Raises:
        ApiError: no JSON object, too much in it, a field that is known and not supported, or one
            that is missing, or of a wrong type or range.
    """
    if limits is not None:
        limits.check_items(body)
    try:
        fields: Any = from_json(body, allow_inf_nan=False, cache_strings="none")
    except ValueError as error:
        raise ApiError(f"The body is not valid JSON: {error}.", code="invalid_json") from error
    if not isinstance(fields, dict):
        raise ApiError("The body must be a JSON object.", code="invalid_json")
    if limits is not None:
        limits.check_fields(fields)
    refuse_unsupported(fields, unsupported or {})
    messages = fields.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else []):
        if isinstance(message, dict):
            refuse_unsupported(message, MESSAGE, f"messages[{index}].")
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        raise invalid(error, fields) from error
