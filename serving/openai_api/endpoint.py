"""The frame that the two inference routes share: read, admit, generate, send."""

import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from everloop.errors import DataError, EngineStoppedError
from serving.openai_api.choice import Prompt
from serving.openai_api.config import ServerConfig
from serving.openai_api.deadline import deadline_of
from serving.openai_api.disconnect import unless_disconnected
from serving.openai_api.errors import ApiError
from serving.openai_api.generation import AdmittedRequest, Generation
from serving.openai_api.generation_request import GenerationRequest
from serving.openai_api.observer import facts_of
from serving.openai_api.prompt import PromptEncoder
from serving.openai_api.reply import Reply, ReplyForm
from serving.openai_api.request_body import read_body
from serving.openai_api.state import ApiState, state_of
from serving.openai_api.streaming import GenerationResponse
from serving.openai_api.tenant import tenant_of
from serving.openai_api.unsupported import Table

if TYPE_CHECKING:
    from serving.engine.llm_engine import LLMEngine

G = TypeVar("G", bound=GenerationRequest)
Admission = Callable[[ServerConfig, PromptEncoder, G, "LLMEngine"], tuple[list[Prompt], ReplyForm]]

_ID_PREFIX = {"chat": "chatcmpl-", "completions": "cmpl-"}


def endpoint(
    route: Literal["chat", "completions"], schema: type[G], unsupported: Table, admit: Admission[G]
) -> Callable[[Request], Awaitable[Response]]:
    """Make the handler of a route.

    Args:
        route: its name.
        schema: of its body.
        unsupported: fields that it refuses by name.
        admit: makes the prompts of a body, and says how answers to them are written; runs in a
            thread.
    """

    async def handle(request: Request) -> Response:
        api, facts = state_of(request), facts_of(request.scope)
        body = await read_body(request, schema, unsupported)
        facts.stream = bool(body.stream)
        _check_count(api, body)
        generation, form = await unless_disconnected(request.receive, start(api, body, request))
        facts.model = generation.model
        reply = Reply(generation, form, include_usage=body.include_usage)
        return GenerationResponse(api, generation, reply, stream=facts.stream)

    async def start(api: ApiState, body: G, request: Request) -> tuple[Generation, ReplyForm]:
        """Bind the request to the champion; once more, when another took its place meanwhile."""
        deadline = deadline_of(request, api)
        while True:
            version = api.version_named(body.model)
            encoder = await api.encoder_for(version, deadline)
            work = (admit, api.config, encoder, body, version)
            prompts, form = await api.prompts.run(deadline, *work)
            await _compile_grammar(api, version, prompts[0], body, deadline)
            admitted = AdmittedRequest(
                id=_ID_PREFIX[route] + uuid.uuid4().hex,
                route=route,
                version=version,
                prompts=prompts,
                num_choices=body.num_choices,
                num_candidates=body.num_candidates,
                is_scoring=body.wanted_tokens == 0,
                tenant=tenant_of(request.scope),
                deadline=deadline,
                metadata=body.labels,
                tools=body.offered_tools,
                keep_text=body.store is not False,
            )
            generation = Generation(api, admitted)
            try:
                await generation.start()
            except EngineStoppedError:
                if api.engine.current is version:
                    raise
            else:
                return generation, form

    return handle


async def _compile_grammar(
    api: ApiState,
    version: "LLMEngine",
    prompt: Prompt,
    body: GenerationRequest,
    deadline: float | None,
) -> None:
    """Compile what the answer must be off the event loop, where it would hold every stream up."""
    if prompt.params.structured is None:
        return
    try:
        check = version.check_request
        await api.grammars.run(deadline, check, prompt.token_ids, prompt.params)
    except DataError as error:
        raise ApiError(str(error), param=body.constraint_field) from error


def _check_count(api: ApiState, body: GenerationRequest) -> None:
    count, limit = body.num_prompts * body.num_candidates, api.config.max_choices
    if count > limit:
        raise ApiError(
            f"The request asks for {count} answers, the server gives {limit} at most "
            "(server.max_choices). Send several requests.",
            param="n" if body.num_prompts == 1 else body.prompt_field,
        )
