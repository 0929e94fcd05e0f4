"""The bodies of replies. A required key has no default, so that none is ever left out.

Everything is written with `exclude_unset`: an optional key appears only where it was given.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from everloop.records import Feedback

FinishReason = Literal["stop", "length"]


class ReplyBody(BaseModel):
    """Base of every reply body."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> bytes:
        """The JSON text, with the keys that were given and no others."""
        return self.model_dump_json(exclude_unset=True).encode("utf-8")


class Usage(ReplyBody):
    """Token counts of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(ReplyBody):
    """The answer of a chat."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(ReplyBody):
    """The one choice of a chat completion."""

    index: int
    message: AnswerMessage
    logprobs: None
    finish_reason: FinishReason


class ChatCompletion(ReplyBody):
    """Reply of POST /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(ReplyBody):
    """What a chunk adds to the answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(ReplyBody):
    """The one choice of a chunk."""

    index: int
    delta: Delta
    logprobs: None
    finish_reason: FinishReason | None


class ChatCompletionChunk(ReplyBody):
    """One event of a streamed chat completion."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class TextChoice(ReplyBody):
    """The one choice of a text completion, whole or in pieces."""

    text: str
    index: int
    logprobs: None
    finish_reason: FinishReason | None


class Completion(ReplyBody):
    """Reply of POST /v1/completions, and one event of its stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None


class Model(ReplyBody):
    """A model that requests may name."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(ReplyBody):
    """Reply of GET /v1/models."""

    object: Literal["list"]
    data: list[Model]


class FeedbackReceipt(ReplyBody):
    """Reply of POST /v1/feedback."""

    feedback_id: str


class FeedbackList(ReplyBody):
    """Reply of GET /v1/feedback, newest first."""

    object: Literal["list"]
    data: list[Feedback]


class ErrorContent(ReplyBody):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(ReplyBody):
    """Reply of every request that failed."""

    error: ErrorContent
