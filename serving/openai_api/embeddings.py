"""POST /v1/embeddings: the mean of a text's hidden states, at length 1."""

import asyncio
import base64
import time
import uuid
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from everloop.errors import EngineStoppedError
from serving.openai_api.completion_request import Prompts
from serving.openai_api.deadline import deadline_of
from serving.openai_api.disconnect import unless_disconnected
from serving.openai_api.errors import ApiError, overdue
from serving.openai_api.observer import facts_of
from serving.openai_api.prompt import encode_prompts
from serving.openai_api.request_body import RequestBody, read_body
from serving.openai_api.responses import EmbeddingItem, EmbeddingList, EmbeddingUsage
from serving.openai_api.state import ApiState, state_of
from serving.openai_api.tenant import tenant_of
from serving.openai_api.unsupported import EMBEDDINGS

if TYPE_CHECKING:
    from serving.engine.llm_engine import LLMEngine


class EmbeddingRequest(RequestBody):
    """Body of POST /v1/embeddings."""

    model: str
    input: Prompts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, description="Only the model's own.")


async def create_embeddings(request: Request) -> Response:
    """Give one vector for each input."""
    api, facts = state_of(request), facts_of(request.scope)
    body = await read_body(request, EmbeddingRequest, EMBEDDINGS)
    deadline = deadline_of(request, api)
    while True:
        version = api.version_named(body.model)
        facts.model = version.manifest.tag
        try:
            async with asyncio.timeout(deadline and deadline - time.monotonic()):
                work = _reply(api, body, version, tenant_of(request.scope), deadline)
                reply = await unless_disconnected(request.receive, work)
        except EngineStoppedError:
            if api.engine.current is version:
                raise  # else a swap has overtaken the request, which begins again
        except TimeoutError as error:
            facts.status = "timeout"
            raise overdue() from error
        else:
            return Response(reply.to_json(), media_type="application/json")


async def _reply(
    api: ApiState,
    body: EmbeddingRequest,
    version: "LLMEngine",
    tenant: str,
    deadline: float | None,
) -> EmbeddingList:
    _check(api, body, version)
    encoder = await api.encoder_for(version, deadline)
    vocab_size = version.manifest.vocab_size
    encode = (encode_prompts, encoder, body.input, vocab_size, "input")
    inputs = await api.prompts.run(deadline, *encode)
    vectors = await _embed(api, version, inputs, tenant)
    count = sum(map(len, inputs))
    data = [
        EmbeddingItem(
            object="embedding", index=index, embedding=_written(vector, body.encoding_format)
        )
        for index, vector in enumerate(vectors)
    ]
    return EmbeddingList(
        object="list",
        data=data,
        model=version.manifest.tag,
        usage=EmbeddingUsage(prompt_tokens=count, total_tokens=count),
    )


def _check(api: ApiState, body: EmbeddingRequest, version: "LLMEngine") -> None:
    manifest = version.manifest
    if not manifest.has_hidden_states:
        raise ApiError(
            f"The model {manifest.tag!r} gives no hidden states. Export a version with "
            "export.embeddings = true.",
            param="model",
            code="unsupported_model",
        )
    if len(body.input) > api.config.max_choices:
        raise ApiError(
            f"input has {len(body.input)} texts, the server takes {api.config.max_choices} at most "
            "(server.max_choices). Send several requests.",
            param="input",
        )
    if body.dimensions not in (None, manifest.hidden_size):
        raise ApiError(
            f"dimensions must be {manifest.hidden_size}, the model's own, got {body.dimensions}.",
            param="dimensions",
            code="unsupported_parameter",
        )


async def _embed(
    api: ApiState, version: "LLMEngine", inputs: list[list[int]], tenant: str
) -> list[NDArray[np.float32]]:
    """All vectors; the failure of one ends the work on the others."""
    name = f"embd-{uuid.uuid4().hex}"
    work = [
        asyncio.ensure_future(api.engine.embed(ids, f"{name}-{index}", version, tenant=tenant))
        for index, ids in enumerate(inputs)
    ]
    try:
        return await asyncio.gather(*work)
    finally:
        for task in work:
            task.cancel()


def _written(vector: NDArray[np.float32], form: str | None) -> list[float] | str:
    unit = (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype("<f4")
    if form == "base64":
        return base64.b64encode(unit.tobytes()).decode("ascii")
    return [float(value) for value in unit]
