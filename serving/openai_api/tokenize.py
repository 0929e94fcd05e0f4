"""POST /tokenize and /detokenize, in vLLM's shapes: what a prompt costs before it is sent."""

from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from serving.openai_api.chat_request import ChatMessage, TemplateVariables
from serving.openai_api.deadline import deadline_of
from serving.openai_api.disconnect import unless_disconnected
from serving.openai_api.errors import ApiError
from serving.openai_api.prompt import PromptEncoder, check_ids, decode_ids
from serving.openai_api.request_body import Items, RequestBody, read_body
from serving.openai_api.responses import DetokenizeReply, TokenizeReply
from serving.openai_api.state import ApiState, state_of
from serving.openai_api.tools import Tool
from serving.openai_api.unsupported import TOKENIZE

if TYPE_CHECKING:
    from serving.engine.llm_engine import LLMEngine


class TokenizeRequest(RequestBody):
    """Body of POST /tokenize: a prompt as of a completion, or messages as of a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: Items[ChatMessage] | None = Field(None, min_length=1)
    tools: Items[Tool] | None = Field(None, max_length=128)
    chat_template_kwargs: TemplateVariables | None = None
    add_generation_prompt: bool | None = None
    add_special_tokens: bool | None = Field(None, description="Of a prompt; true if absent.")
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ApiError("Send either prompt or messages.", param="prompt")
        if self.messages is not None and self.add_special_tokens:
            raise ApiError(
                "The template of a chat adds its special tokens itself.", param="add_special_tokens"
            )
        return self

    def encode(self, encoder: PromptEncoder) -> list[int]:
        """The tokens as the engine would get them."""
        if self.messages is None:
            special = self.add_special_tokens is not False
            return encoder.encode_text(self.prompt or "", add_special_tokens=special)
        return encoder.encode_chat(
            [message.to_record() for message in self.messages],
            [tool.to_template() for tool in self.tools or []],
            add_generation_prompt=self.add_generation_prompt is not False,
            variables=self.chat_template_kwargs,
        )


class DetokenizeRequest(RequestBody):
    """Body of POST /detokenize."""

    model: str | None = None
    tokens: Items[int]


async def tokenize(request: Request) -> Response:
    """Give the tokens of a prompt, special ones included, and their number."""
    api = state_of(request)
    body = await read_body(request, TokenizeRequest, TOKENIZE)
    version = _version(api, body.model)
    deadline = deadline_of(request, api)
    ids = await unless_disconnected(request.receive, _encode(api, body, version, deadline))
    names = [version.tokenizer.id_to_token(token_id) or "" for token_id in ids]
    reply = TokenizeReply(
        count=len(ids),
        max_model_len=version.manifest.max_model_len,
        tokens=ids,
        token_strs=names if body.return_token_strs else None,
    )
    return Response(reply.to_json(), media_type="application/json")


async def _encode(
    api: ApiState, body: TokenizeRequest, version: "LLMEngine", deadline: float | None
) -> list[int]:
    encoder = await api.encoder_for(version, deadline)
    return await api.prompts.run(deadline, body.encode, encoder)


async def detokenize(request: Request) -> Response:
    """Give the text of tokens, the names of special ones included."""
    api = state_of(request)
    body = await read_body(request, DetokenizeRequest)
    version = _version(api, body.model)
    ids = check_ids(body.tokens, version.manifest.vocab_size, "tokens")
    work = api.prompts.run(deadline_of(request, api), decode_ids, version.tokenizer, ids)
    text = await unless_disconnected(request.receive, work)
    return Response(DetokenizeReply(prompt=text).to_json(), media_type="application/json")


def _version(api: ApiState, model: str | None) -> "LLMEngine":
    return api.serving_version() if model is None else api.version_named(model)
