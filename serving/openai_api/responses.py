"""The bodies of replies. A required key has no default, so that none is ever left out.

Everything is written with `exclude_unset`: an optional key appears only where it was given.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from everloop.records import Feedback

FinishReason = Literal["stop", "length", "tool_calls"]


class ReplyBody(BaseModel):
    """Base of every reply body."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> bytes:
        """The JSON text, with the keys that were given and no others."""
        return self.model_dump_json(exclude_unset=True).encode("utf-8")


class PromptTokensDetails(ReplyBody):
    """What is known about the prompt's tokens."""

    cached_tokens: int


class Usage(ReplyBody):
    """Token counts of one request; each prompt counts once, however many answers it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TopLogprob(ReplyBody):
    """One of the most probable tokens at a place."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(ReplyBody):
    """A token of an answer."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(ReplyBody):
    """The tokens of a chat's answer, or of a piece of it."""

    content: list[TokenLogprob]
    refusal: None


class CallFunction(ReplyBody):
    """The function of a call, with its arguments as JSON text."""

    name: str
    arguments: str


class AnswerCall(ReplyBody):
    """A tool call in an answer."""

    id: str
    type: Literal["function"]
    function: CallFunction


class AnswerMessage(ReplyBody):
    """The answer of a chat."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[AnswerCall] | None = None


class ChatChoice(ReplyBody):
    """One answer of a chat completion."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(ReplyBody):
    """Reply of POST /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class CallFunctionDelta(ReplyBody):
    """What a chunk adds to a call's function."""

    name: str | None = None
    arguments: str


class CallDelta(ReplyBody):
    """What a chunk adds to a call; the first of a call has its id and type."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: CallFunctionDelta


class Delta(ReplyBody):
    """What a chunk adds to the answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[CallDelta] | None = None


class ChunkChoice(ReplyBody):
    """A piece of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(ReplyBody):
    """One event of a streamed chat completion."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class TextLogprobs(ReplyBody):
    """The tokens of a text completion, or of a piece of it, in four lists of equal length."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(ReplyBody):
    """One answer of a text completion, whole or a piece of it."""

    text: str
    index: int
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None


class Completion(ReplyBody):
    """Reply of POST /v1/completions, and one event of its stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage | None = None


class EmbeddingUsage(ReplyBody):
    """Token counts of an embedding request."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingItem(ReplyBody):
    """The vector of one input: numbers, or float32 little-endian in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(ReplyBody):
    """Reply of POST /v1/embeddings."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingUsage


class TokenizeReply(ReplyBody):
    """Reply of POST /tokenize."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeReply(ReplyBody):
    """Reply of POST /detokenize."""

    prompt: str


class ModelSampling(ReplyBody):
    """How a model samples where a request sets neither temperature nor top_p.

    Attributes:
        top_k: null for all tokens.
        source: the file that came with the weights; or imported or trained, where none did.
    """

    temperature: float
    top_p: float
    top_k: int | None
    min_p: float
    repetition_penalty: float
    source: Literal["generation_config.json", "imported", "trained"]


class Model(ReplyBody):
    """A model that requests may name.

    Attributes:
        batch_invariant: whether its logits were the same to the last bit in any company, as this
            machine measured when it loaded the version.
        sampling: its defaults, with the server's laid over them.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    batch_invariant: bool
    sampling: ModelSampling


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
