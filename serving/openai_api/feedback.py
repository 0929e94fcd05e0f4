"""POST and GET /v1/feedback, in TensorZero's shape: an inference_id is a completion's id."""

import time
import uuid
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response

from everloop.records import Feedback
from serving.openai_api.errors import ApiError
from serving.openai_api.generation_request import MetadataKey, MetadataValue
from serving.openai_api.observer import Rating
from serving.openai_api.request_body import RequestBody, at_most, read_body
from serving.openai_api.responses import FeedbackList, FeedbackReceipt
from serving.openai_api.state import state_of

_MAX_LISTED = 100


def _check_value_type(value: object) -> object:
    # Before the union, whose own error would name each of its members.
    if isinstance(value, bool | int | float | str):
        return value
    raise PydanticCustomError("value_type", "expected a boolean, a number or text")


class FeedbackRequest(RequestBody):
    """Body of POST /v1/feedback."""

    inference_id: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="A completion's id; of several choices, the id and -1, -2, … after the first.",
    )
    episode_id: str | None = Field(
        None, min_length=1, max_length=512, description="A conversation_id of the metadata."
    )
    metric_name: str = Field(min_length=1, max_length=128)
    value: Annotated[bool | float | str, BeforeValidator(_check_value_type)] = Field(
        description="Text for comment and demonstration, else a boolean or a number."
    )
    tags: Annotated[dict[MetadataKey, MetadataValue] | None, at_most(16)] = None
    source: Literal["HUMAN", "LLM_JUDGE", "CODE"] | None = None
    dryrun: bool | None = Field(None, description="Check the request and keep nothing.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.inference_id is None) == (self.episode_id is None):
            raise ApiError("Send either inference_id or episode_id.", param="inference_id")
        is_text = isinstance(self.value, str)
        if self.metric_name in ("comment", "demonstration"):
            if not is_text or not str(self.value).strip():
                raise ApiError(f"The value of a {self.metric_name} is text.", param="value")
        elif is_text:
            raise ApiError(
                f"The value of the metric {self.metric_name!r} is a boolean or a number.",
                param="value",
            )
        return self

    @property
    def rating(self) -> Rating:
        """What kind of word this is, for the count."""
        if self.metric_name == "comment":
            return "comment"
        if self.metric_name == "demonstration":
            return "demonstration"
        if isinstance(self.value, bool):
            return "positive" if self.value else "negative"
        return "other"


async def create_feedback(request: Request) -> Response:
    """Keep feedback; the reply comes after it is durable."""
    api = state_of(request)
    body = await read_body(request, FeedbackRequest)
    feedback = Feedback(
        id=f"feedback-{uuid.uuid4().hex}",
        created_at=time.time(),
        inference_id=body.inference_id,
        episode_id=body.episode_id,
        metric_name=body.metric_name,
        value=body.value,
        tags=body.tags or {},
        source=body.source or "HUMAN",
    )
    if not body.dryrun:
        await api.recorder.add_feedback(feedback)
        api.observer.feedback(body.rating)
    receipt = FeedbackReceipt(feedback_id=feedback.id)
    return Response(receipt.to_json(), media_type="application/json")


async def list_feedback(request: Request) -> Response:
    """Feedback of one inference (`inference_id`), or the newest of all; `limit` 1 to 100."""
    text = request.query_params.get("limit", "20")
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= _MAX_LISTED):
        raise ApiError(f"limit must be a number from 1 to {_MAX_LISTED}.", param="limit")
    inference_id = request.query_params.get("inference_id")
    found = await state_of(request).recorder.list_feedback(inference_id, int(text))
    body = FeedbackList(object="list", data=found).model_dump_json()
    return Response(body, media_type="application/json")
