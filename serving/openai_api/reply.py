"""The JSON around the answers of a chat or text completion, whole or as a stream of chunks.

What an answer looks like inside is each route's own: a ChoiceWriter.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from serving.openai_api.choice import Choice
from serving.openai_api.generation import Generation
from serving.openai_api.json_template import JsonTemplate
from serving.openai_api.responses import ReplyBody, Usage

if TYPE_CHECKING:
    from serving.engine.sequence import RequestOutput


class ChoiceWriter(Protocol):
    """Writes one answer in a route's form: either `whole`, or in pieces, as JSON, in order."""

    def opening(self) -> Sequence[bytes]:
        """What comes before the first token."""

    def piece(self, output: "RequestOutput") -> Sequence[bytes]:
        """What an output adds."""

    def closing(self) -> Sequence[bytes]:
        """What says why the answer ended."""

    def whole(self) -> ReplyBody:
        """The answer at once."""


@dataclass(frozen=True, slots=True)
class ReplyForm:
    """One route's bodies, and their names for themselves."""

    whole: Callable[..., ReplyBody]
    whole_object: str
    chunk: Callable[..., ReplyBody]
    chunk_object: str
    writer: Callable[[Choice], ChoiceWriter]


class Reply:
    """Writes the reply to one request."""

    def __init__(self, generation: Generation, form: ReplyForm, *, include_usage: bool) -> None:
        self._generation = generation
        self._form = form
        self._include_usage = include_usage
        self._writers: dict[Choice, ChoiceWriter] = {
            choice: form.writer(choice) for choice in generation.choices
        }
        self._head = {
            "id": generation.request.id,
            "created": int(generation.created_at),
            "model": generation.model,
            "system_fingerprint": fingerprint(generation.model),
        }
        # With include_usage every chunk has the key, null until the last; without, none has it.
        around = self._chunk({"usage": None} if include_usage else {})
        self._around = JsonTemplate(around, b'"choices":[]')

    def whole(self) -> bytes:
        """The reply that holds the answers."""
        generation = self._generation
        return self._form.whole(
            **self._head,
            object=self._form.whole_object,
            choices=[self._writers[choice].whole() for choice in generation.choices],
            usage=generation.usage,
        ).to_json()

    def opening(self) -> list[bytes]:
        """The chunks before any token."""
        return self._chunks(part for one in self._writers.values() for part in one.opening())

    def piece(self, choice: Choice, output: "RequestOutput") -> list[bytes]:
        """The chunks that an output makes."""
        writer = self._writers[choice]
        chunks = self._chunks(writer.piece(output))
        return chunks + self._chunks(writer.closing()) if choice.is_finished else chunks

    def ending(self) -> list[bytes]:
        """The chunk with the token counts, if the client asked for it."""
        return [self._chunk({"usage": self._generation.usage})] if self._include_usage else []

    def _chunks(self, parts: Iterable[bytes]) -> list[bytes]:
        return [self._around.fill(b'"choices":[' + part + b"]") for part in parts]

    def _chunk(self, counts: Mapping[str, Usage | None]) -> bytes:
        form = self._form
        return form.chunk(**self._head, object=form.chunk_object, choices=[], **counts).to_json()


def fingerprint(model: str) -> str:
    """Name what an answer to a seed depends on: the version of the model."""
    return f"fp_{hashlib.sha256(model.encode()).hexdigest()[:10]}"
