"""POST /v1/chat/completions: the prompt of a conversation, and the form of its answer."""

from typing import TYPE_CHECKING

from serving.engine.sampling_params import StructuredOutput
from serving.openai_api.chat_request import ChatCompletionRequest
from serving.openai_api.chat_writer import ChatWriter
from serving.openai_api.choice import Choice, Prompt
from serving.openai_api.config import ServerConfig
from serving.openai_api.endpoint import endpoint
from serving.openai_api.errors import ApiError
from serving.openai_api.prompt import PromptEncoder
from serving.openai_api.reply import ReplyForm
from serving.openai_api.responses import ChatCompletion, ChatCompletionChunk
from serving.openai_api.sampling import sampling_defaults, sampling_params
from serving.openai_api.tool_formats import ToolFormat, tool_format
from serving.openai_api.tool_parser import ToolParser
from serving.openai_api.tools import callable_tools, tool_constraint
from serving.openai_api.unsupported import CHAT

if TYPE_CHECKING:
    from serving.engine.llm_engine import LLMEngine


def _admit(
    config: ServerConfig,
    encoder: PromptEncoder,
    body: ChatCompletionRequest,
    version: "LLMEngine",
) -> tuple[list[Prompt], ReplyForm]:
    style, constraint = _tools(body, version)
    messages = tuple(message.to_record() for message in body.messages)
    token_ids = encoder.encode_chat(
        messages, body.offered_tools or (), variables=body.chat_template_kwargs
    )
    params = sampling_params(
        body,
        version.manifest,
        sampling_defaults(version.manifest, config),
        num_prompt_tokens=len(token_ids),
        default_tokens=config.default_max_tokens,
        constraint=constraint,
    )
    prompt = Prompt(token_ids=token_ids, messages=messages, params=params)
    is_parallel = body.parallel_tool_calls is not False

    def write(choice: Choice) -> ChatWriter:
        parser = None if style is None else ToolParser(style, is_parallel=is_parallel)
        return ChatWriter(choice, version.vocabulary, parser)

    return [prompt], ReplyForm(
        ChatCompletion, "chat.completion", ChatCompletionChunk, "chat.completion.chunk", write
    )


def _tools(
    body: ChatCompletionRequest, version: "LLMEngine"
) -> tuple[ToolFormat | None, StructuredOutput | None]:
    """How the model writes calls (None: it may not call), and what the answer must be."""
    tools = callable_tools(body.tool_choice, body.tools or [])
    if not tools:
        return None, body.constraint
    template = version.chat_template
    style = None if template is None else tool_format(template)
    if style is None:
        raise ApiError(
            "This model's chat template has no notation for tools. Leave tools out.",
            param="tools",
            code="unsupported_parameter",
        )
    constraint = tool_constraint(
        style,
        tools,
        body.tool_choice,
        body.constraint,
        is_parallel=body.parallel_tool_calls is not False,
    )
    return style, constraint


create_chat_completion = endpoint("chat", ChatCompletionRequest, CHAT, _admit)
