"""Tokens with their logprobs as the wire has them, each given out with the text it belongs to.

A token's place is where its text begins; places come from the same decoding as the text. So what a
stop text cuts off the answer is cut off the logprobs too. The end token has no text: a chat leaves
it out, a text completion gives it, so that whoever scores a prompt by `echo` and one more token can
count on that token (lm-eval does).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving.engine.detokenizer import Detokenizer
from serving.engine.vocabulary import Vocabulary
from serving.openai_api.choice import Choice
from serving.openai_api.responses import TextLogprobs, TokenLogprob, TopLogprob

if TYPE_CHECKING:
    from serving.engine.sequence import RequestOutput, TokenLogprobs

_LEAST = -9999.0  # Source: OpenAI's specification; JSON has no minus infinity


@dataclass(frozen=True, slots=True)
class PlacedToken:
    """A token and where its text begins.

    Attributes:
        entry: None for the first token of a prompt, which nothing predicts.
    """

    token_id: int
    entry: "TokenLogprobs | None"
    offset: int


class TokenPlacer:
    """Holds the tokens of one answer until their text is out.

    Args:
        start: characters of the echo before the answer.
        end_ids: tokens that end an answer and are to be given with it.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        choice: Choice,
        start: int = 0,
        end_ids: frozenset[int] = frozenset(),
    ) -> None:
        # Stops are not looked for: they cut the text, which says how far the tokens go.
        self._detokenizer = Detokenizer(vocabulary, is_beginning=_is_beginning(vocabulary, choice))
        self._decoded = start
        self._written = start
        self._end_ids = end_ids
        self._held: list[PlacedToken] = []

    def take(self, output: "RequestOutput") -> list[PlacedToken]:
        """Take the next output and give the tokens whose text has begun by its end.

        Of an answer that its length or a token ended, all are given.
        """
        for token_id, entry in zip(output.token_ids, output.logprobs, strict=True):
            self._held.append(PlacedToken(token_id, entry, self._decoded))
            self._decoded += len(self._detokenizer.add(token_id))
        self._written += len(output.text)
        if output.finish_reason == "length" or self._is_ended_by_token(output):
            count = len(self._held)
        else:
            count = sum(token.offset < self._written for token in self._held)
        released, self._held = self._held[:count], self._held[count:]
        return released

    def _is_ended_by_token(self, output: "RequestOutput") -> bool:
        tokens = output.token_ids
        return output.finish_reason == "stop" and bool(tokens) and tokens[-1] in self._end_ids


def place_prompt(
    vocabulary: Vocabulary, choice: Choice, output: "RequestOutput"
) -> list[PlacedToken]:
    """Place the tokens of an echoed prompt, whose logprobs are in the first output."""
    detokenizer, offset, placed = Detokenizer(vocabulary, is_beginning=True), 0, []
    for token_id, entry in zip(choice.prompt.token_ids, output.prompt_logprobs, strict=True):
        placed.append(PlacedToken(token_id, entry, offset))
        # Token ids are echoed with the names of special tokens; a text never had them.
        if vocabulary.is_special(token_id) and not choice.prompt.is_text:
            offset += len(vocabulary.bytes_of(token_id).decode("utf-8"))
        else:
            offset += len(detokenizer.add(token_id))
    return placed


def _is_beginning(vocabulary: Vocabulary, choice: Choice) -> bool:
    # As the engine has it: the offsets must be those of its text.
    return choice.params.structured is None and vocabulary.is_special(choice.prompt.token_ids[-1])


def chat_logprobs(vocabulary: Vocabulary, tokens: Iterable[PlacedToken]) -> list[TokenLogprob]:
    """The tokens in the form of chats."""
    content = []
    for token in tokens:
        if token.entry is None:
            continue
        raw = vocabulary.bytes_of(token.token_id)
        top = [
            _top(vocabulary.bytes_of(token_id), logprob) for token_id, logprob in token.entry.top
        ]
        content.append(
            TokenLogprob(
                token=_shown(raw, ""),
                logprob=max(token.entry.logprob, _LEAST),
                bytes=list(raw),
                top_logprobs=top,
            )
        )
    return content


def text_logprobs(vocabulary: Vocabulary, tokens: Sequence[PlacedToken]) -> TextLogprobs:
    """The tokens in the form of text completions."""
    names = [_shown(vocabulary.bytes_of(token.token_id), "bytes:") for token in tokens]
    entries = [token.entry for token in tokens]
    return TextLogprobs(
        tokens=names,
        token_logprobs=[entry and max(entry.logprob, _LEAST) for entry in entries],
        top_logprobs=[
            entry and _by_name(vocabulary, name, entry)
            for name, entry in zip(names, entries, strict=True)
        ],
        text_offset=[token.offset for token in tokens],
    )


def _by_name(vocabulary: Vocabulary, name: str, entry: "TokenLogprobs") -> dict[str, float]:
    # The chosen token is always among them, so there may be one more than was asked for.
    top = {
        _shown(vocabulary.bytes_of(token_id), "bytes:"): max(logprob, _LEAST)
        for token_id, logprob in entry.top
    }
    return top | {name: max(entry.logprob, _LEAST)}


def _top(raw: bytes, logprob: float) -> TopLogprob:
    return TopLogprob(token=_shown(raw, ""), logprob=max(logprob, _LEAST), bytes=list(raw))


def _shown(raw: bytes, prefix: str) -> str:
    r"""A token as text; one that is no whole character as `\xe4\xb8`, the way of OpenAI."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return prefix + "".join(f"\\x{byte:02x}" for byte in raw)
