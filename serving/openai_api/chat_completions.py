"""POST /v1/chat/completions."""

import asyncio
import uuid

from starlette.requests import Request
from starlette.responses import Response

from serving.openai_api.generation import AdmittedRequest, Generation, sampling_params
from serving.openai_api.observer import facts_of
from serving.openai_api.protocol import ChatCompletionRequest, parse_body
from serving.openai_api.responses import (
    AnswerMessage,
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChunkChoice,
    Delta,
    FinishReason,
    Usage,
)
from serving.openai_api.state import ApiState, state_of
from serving.openai_api.streaming import GenerationResponse
from serving.openai_api.unsupported import CHAT


async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation."""
    api, facts = state_of(request), facts_of(request.scope)
    body = parse_body(await request.body(), ChatCompletionRequest, CHAT)
    facts.stream = bool(body.stream)
    admitted = await _admit(api, body)
    facts.model = admitted.version.manifest.tag
    generation = Generation(api, admitted)
    form = ChatForm(generation, include_usage=body.include_usage)
    return GenerationResponse(api, generation, form, stream=facts.stream)


async def _admit(api: ApiState, body: ChatCompletionRequest) -> AdmittedRequest:
    version = api.version_named(body.model)
    messages = tuple(message.to_record() for message in body.messages)
    encoder = await api.encoder_for(version)
    prompt_token_ids = await asyncio.to_thread(encoder.encode_chat, messages)
    params = sampling_params(
        body,
        limit=body.answer_limit,
        default_limit=api.config.default_max_tokens,
        prompt_tokens=len(prompt_token_ids),
        max_model_len=version.manifest.max_model_len,
    )
    return AdmittedRequest(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        route="chat",
        version=version,
        prompt_token_ids=prompt_token_ids,
        params=params,
        messages=messages,
        metadata=body.metadata or {},
        keep_text=body.store is not False,
    )


class ChatForm:
    """Writes the JSON of a chat completion and of its chunks."""

    def __init__(self, generation: Generation, *, include_usage: bool) -> None:
        self._id = generation.request.id
        self._created = generation.created
        self._model = generation.model
        self._include_usage = include_usage

    def whole(self, generation: Generation) -> bytes:
        """The reply that holds the answer."""
        message = AnswerMessage(role="assistant", content=generation.text, refusal=None)
        choice = ChatChoice(
            index=0, message=message, logprobs=None, finish_reason=generation.finish_reason
        )
        return ChatCompletion(
            id=self._id,
            object="chat.completion",
            created=self._created,
            model=self._model,
            choices=[choice],
            usage=generation.usage,
        ).to_json()

    def opening(self) -> bytes:
        """The chunk that names the role."""
        return self._chunk(Delta(role="assistant", content=""), None)

    def piece(self, text: str) -> bytes:
        """A chunk with text."""
        return self._chunk(Delta(content=text), None)

    def closing(self, finish_reason: FinishReason) -> bytes:
        """The chunk that says why the answer ended."""
        return self._chunk(Delta(), finish_reason)

    def usage(self, usage: Usage) -> bytes | None:
        """The chunk with the token counts, if the client asked for it."""
        return self._write([], usage) if self._include_usage else None

    def _chunk(self, delta: Delta, finish_reason: FinishReason | None) -> bytes:
        choice = ChunkChoice(index=0, delta=delta, logprobs=None, finish_reason=finish_reason)
        return self._write([choice], None)

    def _write(self, choices: list[ChunkChoice], usage: Usage | None) -> bytes:
        # With include_usage every chunk has the key, null until the last; without, none has it.
        counts = {"usage": usage} if self._include_usage else {}
        return ChatCompletionChunk(
            id=self._id,
            object="chat.completion.chunk",
            created=self._created,
            model=self._model,
            choices=choices,
            **counts,
        ).to_json()
