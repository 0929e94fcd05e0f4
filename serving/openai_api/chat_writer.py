"""One answer of a chat on the wire: text, tool calls and logprobs, whole or in pieces."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pydantic_core import to_json

from serving.engine.vocabulary import Vocabulary
from serving.openai_api.choice import Choice
from serving.openai_api.json_template import TEXT_MARK, TEXT_MARK_JSON, JsonTemplate
from serving.openai_api.responses import (
    AnswerCall,
    AnswerMessage,
    CallDelta,
    CallFunction,
    CallFunctionDelta,
    ChatChoice,
    ChatLogprobs,
    ChunkChoice,
    Delta,
    FinishReason,
)
from serving.openai_api.token_logprobs import PlacedToken, TokenPlacer, chat_logprobs
from serving.openai_api.tool_parser import CallPiece, ToolParser

if TYPE_CHECKING:
    from serving.engine.sequence import RequestOutput


class ChatWriter:
    """Writes one answer of a chat."""

    def __init__(self, choice: Choice, vocabulary: Vocabulary, parser: ToolParser | None) -> None:
        self._choice = choice
        self._vocabulary = vocabulary
        self._parser = parser
        self._placer = (
            TokenPlacer(vocabulary, choice) if choice.params.logprobs is not None else None
        )

        plain = self._chunk(Delta(content=TEXT_MARK), ())
        self._plain = JsonTemplate(plain, TEXT_MARK_JSON)

    def opening(self) -> list[bytes]:
        """The role, before any text."""
        return [self._chunk(Delta(role="assistant", content=""), ())]

    def piece(self, output: "RequestOutput") -> list[bytes]:
        """Text and parts of calls; nothing for an output that shows nothing yet."""
        if self._parser is None and self._placer is None:
            return [self._plain.fill(to_json(output.text))] if output.text else []
        tokens = self._tokens(output)
        deltas = [_delta(piece) for piece in self._pieces(output.text)]
        if tokens and not deltas:
            deltas = [Delta(content="")]
        return [self._chunk(delta, () if number else tokens) for number, delta in enumerate(deltas)]

    def closing(self) -> list[bytes]:
        """Why the answer ended."""
        index, reason = self._choice.index, self._finish_reason
        last = ChunkChoice(index=index, delta=Delta(), logprobs=None, finish_reason=reason)
        return [last.to_json()]

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
        if self._choice.is_finished:
            pieces += self._parser.finish(is_cut=self._choice.finish_reason == "length")
        return pieces

    def _tokens(self, output: "RequestOutput") -> list[PlacedToken]:
        return [] if self._placer is None else self._placer.take(output)

    def _chunk(self, delta: Delta, tokens: Iterable[PlacedToken]) -> bytes:
        logprobs = self._logprobs(tokens)
        return ChunkChoice(
            index=self._choice.index, delta=delta, logprobs=logprobs, finish_reason=None
        ).to_json()

    def _logprobs(self, tokens: Iterable[PlacedToken]) -> ChatLogprobs | None:
        if self._placer is None:
            return None
        return ChatLogprobs(content=chat_logprobs(self._vocabulary, tokens), refusal=None)


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
