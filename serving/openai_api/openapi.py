"""/openapi.json: OpenAPI 3.1, written from the pydantic models that check and write the bodies."""

import json
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from serving.openai_api import responses
from serving.openai_api.chat_request import ChatCompletionRequest
from serving.openai_api.completion_request import CompletionRequest
from serving.openai_api.embeddings import EmbeddingRequest
from serving.openai_api.feedback import FeedbackRequest
from serving.openai_api.tokenize import DetokenizeRequest, TokenizeRequest

_REPLIES: tuple[type[BaseModel], ...] = (
    responses.ChatCompletion,
    responses.ChatCompletionChunk,
    responses.Completion,
    responses.EmbeddingList,
    responses.TokenizeReply,
    responses.DetokenizeReply,
    responses.Model,
    responses.ModelList,
    responses.FeedbackReceipt,
    responses.FeedbackList,
    responses.ErrorBody,
)
_REQUESTS: tuple[type[BaseModel], ...] = (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    TokenizeRequest,
    DetokenizeRequest,
    FeedbackRequest,
)
_SCHEMA_PATH = "#/components/schemas/{model}"


async def openapi(_request: Request) -> Response:
    """Describe the API."""
    return Response(_document(), media_type="application/json")


@cache
def _document() -> bytes:
    mode_of: dict[type[BaseModel], JsonSchemaMode] = dict.fromkeys(_REPLIES, "serialization")
    mode_of |= dict.fromkeys(_REQUESTS, "validation")
    _, schemas = models_json_schema(list(mode_of.items()), ref_template=_SCHEMA_PATH)
    document = {
        "openapi": "3.1.0",
        "info": {"title": "Everloop", "version": "1"},
        "paths": _paths(),
        "components": {"schemas": schemas["$defs"]},
    }
    return json.dumps(document).encode("utf-8")


def _paths() -> dict[str, object]:
    chat = _operation("Answer a conversation", "ChatCompletion", "ChatCompletionRequest")
    completion = _operation("Continue a prompt", "Completion", "CompletionRequest")
    _add_stream(chat, "ChatCompletionChunk")
    _add_stream(completion, "Completion")
    return {
        "/v1/chat/completions": {"post": chat},
        "/v1/completions": {"post": completion},
        "/v1/embeddings": {
            "post": _operation("Give texts as vectors", "EmbeddingList", "EmbeddingRequest")
        },
        "/tokenize": {
            "post": _operation("Count and list the tokens", "TokenizeReply", "TokenizeRequest")
        },
        "/detokenize": {
            "post": _operation("Give tokens as text", "DetokenizeReply", "DetokenizeRequest")
        },
        "/v1/models": {"get": _operation("List the models", "ModelList")},
        "/v1/models/{model}": {
            "get": _operation("Describe a model", "Model", parameters=[_parameter("model", "path")])
        },
        "/v1/feedback": {
            "post": _operation("Give feedback on an answer", "FeedbackReceipt", "FeedbackRequest"),
            "get": _operation(
                "List feedback",
                "FeedbackList",
                parameters=[
                    _parameter("inference_id", "query"),
                    _parameter("limit", "query", "integer"),
                ],
            ),
        },
    }


def _operation(
    summary: str, reply: str, body: str | None = None, parameters: list[object] | None = None
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {
            "200": {"description": "Done.", "content": _json(reply)},
            "default": {"description": "The request failed.", "content": _json("ErrorBody")},
        },
    }
    if body:
        operation["requestBody"] = {"required": True, "content": _json(body)}
    headers = [_parameter("x-request-id", "header")]
    if body:
        headers.append(_parameter("Idempotency-Key", "header"))
    operation["parameters"] = [*(parameters or []), *headers]
    return operation


def _json(model: str) -> dict[str, object]:
    return {"application/json": {"schema": {"$ref": _SCHEMA_PATH.format(model=model)}}}


def _add_stream(operation: dict[str, Any], chunk: str) -> None:
    operation["parameters"].append(_parameter("x-request-timeout", "header", "number"))
    description = f"Events whose data is a {chunk}, then [DONE]; an error is an ErrorBody."
    operation["responses"]["200"]["content"]["text/event-stream"] = {
        "schema": {"type": "string", "description": description}
    }


def _parameter(name: str, place: str, kind: str = "string") -> dict[str, object]:
    return {"name": name, "in": place, "required": place == "path", "schema": {"type": kind}}
