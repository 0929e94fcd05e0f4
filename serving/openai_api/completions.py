"""POST /v1/completions: one prompt, as text or as token ids, continued."""

import asyncio
import uuid

from starlette.requests import Request
from starlette.responses import Response

from everloop.records import Message
from serving.openai_api.errors import ApiError
from serving.openai_api.generation import AdmittedRequest, Generation, sampling_params
from serving.openai_api.observer import facts_of
from serving.openai_api.protocol import CompletionRequest, parse_body
from serving.openai_api.responses import Completion, FinishReason, TextChoice, Usage
from serving.openai_api.state import ApiState, state_of
from serving.openai_api.streaming import GenerationResponse
from serving.openai_api.unsupported import COMPLETIONS

_DEFAULT_MAX_TOKENS = 16  # Source: OpenAI's specification of this route.


async def create_completion(request: Request) -> Response:
    """Continue a prompt."""
    api, facts = state_of(request), facts_of(request.scope)
    body = parse_body(await request.body(), CompletionRequest, COMPLETIONS)
    facts.stream = bool(body.stream)
    admitted = await _admit(api, body)
    facts.model = admitted.version.manifest.tag
    generation = Generation(api, admitted)
    form = CompletionForm(generation, include_usage=body.include_usage)
    return GenerationResponse(api, generation, form, stream=facts.stream)


async def _admit(api: ApiState, body: CompletionRequest) -> AdmittedRequest:
    version = api.version_named(body.model)
    if isinstance(body.prompt, str):
        text = body.prompt
        encoder = await api.encoder_for(version)
        prompt_token_ids = await asyncio.to_thread(encoder.encode_text, text)
    else:
        prompt_token_ids = _checked_ids(body.prompt, version.manifest.vocab_size)
        text = version.tokenizer.decode(prompt_token_ids, skip_special_tokens=False)
    if not prompt_token_ids:
        raise ApiError("prompt is empty; send at least one token.", param="prompt")
    params = sampling_params(
        body,
        limit=body.max_tokens,
        default_limit=_DEFAULT_MAX_TOKENS,
        prompt_tokens=len(prompt_token_ids),
        max_model_len=version.manifest.max_model_len,
    )
    return AdmittedRequest(
        id=f"cmpl-{uuid.uuid4().hex}",
        route="completions",
        version=version,
        prompt_token_ids=prompt_token_ids,
        params=params,
        messages=(Message(role="user", content=text),),
        metadata=body.metadata or {},
        keep_text=body.store is not False,
    )


def _checked_ids(token_ids: list[int], vocab_size: int) -> list[int]:
    for index, token_id in enumerate(token_ids):
        if not 0 <= token_id < vocab_size:
            raise ApiError(
                f"prompt[{index}]: token id {token_id} is not in the vocabulary (0 to "
                f"{vocab_size - 1}).",
                param=f"prompt[{index}]",
            )
    return token_ids


class CompletionForm:
    """Writes the JSON of a text completion and of its chunks."""

    def __init__(self, generation: Generation, *, include_usage: bool) -> None:
        self._id = generation.request.id
        self._created = generation.created
        self._model = generation.model
        self._include_usage = include_usage

    def whole(self, generation: Generation) -> bytes:
        """The reply that holds the answer."""
        choice = _choice(generation.text, generation.finish_reason)
        return self._write([choice], {"usage": generation.usage})

    def opening(self) -> None:
        """Nothing comes before the text."""

    def piece(self, text: str) -> bytes:
        """A chunk with text."""
        return self._write([_choice(text, None)], self._counts(None))

    def closing(self, finish_reason: FinishReason) -> bytes:
        """The chunk that says why the answer ended."""
        return self._write([_choice("", finish_reason)], self._counts(None))

    def usage(self, usage: Usage) -> bytes | None:
        """The chunk with the token counts, if the client asked for it."""
        return self._write([], self._counts(usage)) if self._include_usage else None

    def _counts(self, usage: Usage | None) -> dict[str, Usage | None]:
        return {"usage": usage} if self._include_usage else {}

    def _write(self, choices: list[TextChoice], counts: dict[str, Usage | None]) -> bytes:
        return Completion(
            id=self._id,
            object="text_completion",
            created=self._created,
            model=self._model,
            choices=choices,
            **counts,
        ).to_json()


def _choice(text: str, finish_reason: FinishReason | None) -> TextChoice:
    return TextChoice(text=text, index=0, logprobs=None, finish_reason=finish_reason)
