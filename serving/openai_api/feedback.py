"""POST and GET /v1/feedback, in TensorZero's shape: an inference_id is a completion's id."""

import difflib
import time
import uuid
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response

from everloop.records import METRICS, Feedback
from serving.openai_api.errors import ApiError
from serving.openai_api.generation_request import MetadataKey, MetadataValue
from serving.openai_api.request_body import RequestBody, at_most, read_body
from serving.openai_api.responses import FeedbackList, FeedbackReceipt
from serving.openai_api.state import state_of

_MAX_LISTED = 100
_ALIKE = 0.8  # of two names, 0 to 1: a letter more, less or exchanged, or a word such as _up behind


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
        meant = _meant(self.metric_name)
        if meant is not None:
            raise ApiError(
                f"No metric is called {self.metric_name!r}; did you mean {meant}? A metric of your "
                "own needs a name that is less alike.",
                param="metric_name",
            )
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


def _meant(metric_name: str) -> str | None:
    """The metric that a mistyped name stands for; what nobody reads would be lost in silence."""
    if metric_name in METRICS:
        return None
    near = difflib.get_close_matches(metric_name.lower(), METRICS, n=1, cutoff=_ALIKE)
    return near[0] if near else None


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
    if body.dryrun:
        await api.recorder.check_feedback(feedback)
    else:
        await api.recorder.add_feedback(feedback)
        api.observer.feedback(feedback.rating)
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
