"""POST /v1/chat/completions: the prompt of a conversation, and the form of its answer."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from serving.engine.sampling_params import StructuredOutput
from serving.openai_api.chat_request import ChatCompletionRequest
from serving.openai_api.choice import Choice, Prompt
from serving.openai_api.endpoint import endpoint
from serving.openai_api.errors import ApiError
from serving.openai_api.reply import ReplyForm
from serving.openai_api.responses import (
    AnswerCall,
    AnswerMessage,
    CallDelta,
    CallFunction,
    CallFunctionDelta,
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatLogprobs,
    ChunkChoice,
    Delta,
    FinishReason,
)
from serving.openai_api.sampling import sampling_params
from serving.openai_api.state import ApiState
from serving.openai_api.token_logprobs import PlacedToken, TokenPlacer, chat_logprobs
from serving.openai_api.tool_formats import ToolFormat, tool_format
from serving.openai_api.tool_parser import CallPiece, ToolParser
from serving.openai_api.tools import callable_tools, tool_constraint
from serving.openai_api.unsupported import CHAT

if TYPE_CHECKING:
    from serving.engine.llm_engine import LLMEngine
    from serving.engine.sequence import RequestOutput


async def _admit(
    api: ApiState, body: ChatCompletionRequest, version: "LLMEngine"
) -> tuple[list[Prompt], ReplyForm]:
    style, constraint = _tools(body, version)
    messages = tuple(message.to_record() for message in body.messages)
    shown = [] if style is None else [tool.to_template() for tool in body.tools or []]
    encoder = await api.encoder_for(version)
    token_ids = await asyncio.to_thread(encoder.encode_chat, messages, shown)
    params = sampling_params(
        body,
        version.manifest,
        num_prompt_tokens=len(token_ids),
        default_tokens=api.config.default_max_tokens,
        constraint=constraint,
    )
    is_parallel = body.parallel_tool_calls is not False
    if style is not None and not is_parallel and style.close:
        params = replace(params, stop=(*params.stop, style.close))
    prompt = Prompt(token_ids=token_ids, messages=messages, params=params)

    def write(choice: Choice) -> ChatWriter:
        parser = None if style is None else ToolParser(style, is_parallel=is_parallel)
        return ChatWriter(choice, version.tokenizer, parser)

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


class ChatWriter:
    """Writes one answer of a chat."""

    def __init__(self, choice: Choice, tokenizer: Tokenizer, parser: ToolParser | None) -> None:
        self._choice = choice
        self._tokenizer = tokenizer
        self._parser = parser
        self._placer = TokenPlacer(tokenizer) if choice.params.logprobs is not None else None

    def opening(self) -> list[ChunkChoice]:
        """The role, before any text."""
        return [self._chunk(Delta(role="assistant", content=""), ())]

    def piece(self, output: "RequestOutput") -> list[ChunkChoice]:
        """Text and parts of calls; nothing for an output that shows nothing yet."""
        tokens = self._tokens(output)
        deltas = [_delta(piece) for piece in self._pieces(output.text)]
        if tokens and not deltas:
            deltas = [Delta(content="")]
        return [self._chunk(delta, () if number else tokens) for number, delta in enumerate(deltas)]

    def closing(self) -> list[ChunkChoice]:
        """Why the answer ended."""
        return [
            ChunkChoice(
                index=self._choice.index,
                delta=Delta(),
                logprobs=None,
                finish_reason=self._finish_reason,
            )
        ]

    def whole(self) -> ChatChoice:
        """The answer at once."""
        tokens = [token for output in self._choice.outputs for token in self._tokens(output)]
        content, calls = _collect(self._pieces(self._choice.text))
        message = AnswerMessage(role="assistant", content=content, refusal=None)
        if calls:
            message = message.model_copy(update={"content": content or None, "tool_calls": calls})
        return ChatChoice(
            index=self._choice.index,
            message=message,
            logprobs=self._logprobs(tokens),
            finish_reason=self._finish_reason,
        )

    @property
    def _finish_reason(self) -> FinishReason:
        reason = self._choice.finish_reason
        if reason is None:
            raise RuntimeError("the answer has not ended")
        is_call = self._parser is not None and self._parser.num_calls > 0
        return "tool_calls" if is_call and reason == "stop" else reason

    def _pieces(self, text: str) -> list[str | CallPiece]:
        if self._parser is None:
            return [text] if text else []
        pieces = self._parser.add(text)
        return pieces + self._parser.finish() if self._choice.is_finished else pieces

    def _tokens(self, output: "RequestOutput") -> list[PlacedToken]:
        return [] if self._placer is None else self._placer.take(output)

    def _chunk(self, delta: Delta, tokens: Iterable[PlacedToken]) -> ChunkChoice:
        logprobs = self._logprobs(tokens)
        return ChunkChoice(
            index=self._choice.index, delta=delta, logprobs=logprobs, finish_reason=None
        )

    def _logprobs(self, tokens: Iterable[PlacedToken]) -> ChatLogprobs | None:
        if self._placer is None:
            return None
        return ChatLogprobs(content=chat_logprobs(self._tokenizer, tokens), refusal=None)


def _delta(piece: str | CallPiece) -> Delta:
    if isinstance(piece, str):
        return Delta(content=piece)
    if piece.name is None:
        function = CallFunctionDelta(arguments=piece.arguments)
        return Delta(tool_calls=[CallDelta(index=piece.index, function=function)])
    function = CallFunctionDelta(name=piece.name, arguments=piece.arguments)
    call = CallDelta(index=piece.index, id=piece.id, type="function", function=function)
    return Delta(tool_calls=[call])


def _collect(pieces: Sequence[str | CallPiece]) -> tuple[str, list[AnswerCall]]:
    """Content and calls, put together from their pieces."""
    content = "".join(piece for piece in pieces if isinstance(piece, str))
    parts: dict[int, list[CallPiece]] = {}
    for piece in pieces:
        if isinstance(piece, CallPiece):
            parts.setdefault(piece.index, []).append(piece)
    calls = [
        AnswerCall(
            id=call[0].id or "",
            type="function",
            function=CallFunction(
                name=call[0].name or "", arguments="".join(piece.arguments for piece in call)
            ),
        )
        for call in parts.values()
    ]
    return content, calls


create_chat_completion = endpoint("chat", ChatCompletionRequest, CHAT, _admit)
