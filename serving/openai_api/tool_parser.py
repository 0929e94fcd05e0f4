"""Finds tool calls in an answer while it is being written.

Text before a call is content; of a call the name comes first and then its arguments, piece by
piece, as the model wrote them. What looks like a call and turns out to be none is content.
"""

import json
import re
import uuid
from dataclasses import dataclass
from enum import Enum

from pydantic_core import from_json

from serving.openai_api.tool_formats import ToolFormat

_NAME = r'\s*\{\s*"name"\s*:\s*"((?:[^"\\]|\\.)*)"\s*,\s*"'


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A part of a call: the first has id and name, all have text of the arguments."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


class _State(Enum):
    START = "nothing but white space and openers so far"
    CONTENT = "in text"
    CALL = "in the object of a call, before its arguments"
    ARGUMENTS = "in the arguments"
    AFTER = "behind a call"
    DONE = "calls are not wanted any more"


class ToolParser:
    """The tool calls of one answer.

    Attributes:
        num_calls: calls that have begun.
    """

    def __init__(self, style: ToolFormat, *, is_parallel: bool) -> None:
        self.num_calls = 0
        self._style = style
        self._is_parallel = is_parallel
        self._head = re.compile(_NAME + style.arguments + r'"\s*:\s*(?=\{)')
        self._state = _State.CONTENT if style.is_inline else _State.START
        self._buffer = ""  # text that is not given out yet
        self._opened = ""  # what stood before the object of a call, in case it is none
        self._scanner = _ObjectScanner()

    def add(self, text: str) -> list[str | CallPiece]:
        """Take more of the answer and give what is certain: content, or parts of calls."""
        self._buffer += text
        pieces: list[str | CallPiece] = []
        while (found := self._advance()) is not None:
            pieces += found
        return pieces

    def finish(self, *, is_cut: bool) -> list[str | CallPiece]:
        """Give what was held back at the end of the answer.

        Args:
            is_cut: its length ended the answer; what may have become a call is dropped then.
        """
        pieces: list[str | CallPiece] = []
        if self._state in (_State.START, _State.CONTENT, _State.CALL):
            held = self._before_call() if is_cut else self._opened + self._buffer
            if held and not (self.num_calls and held.isspace()):
                pieces.append(held)
        self._buffer = self._opened = ""
        return pieces

    def _before_call(self) -> str:
        """What is held back, up to where a call may have begun."""
        if self._state is _State.CALL:
            may_be_call = self._style.is_inline or self._may_be_call(self._buffer)
            return "" if may_be_call else self._opened + self._buffer
        if self._state is _State.START:
            rest, _ = _skip(self._buffer, self._style.openers)
            return self._buffer if self._buffer.isspace() or not self._opens(rest) else ""
        size = _overlap(self._buffer, self._style.openers[0]) if self._style.is_inline else 0
        return self._buffer[: len(self._buffer) - size].rstrip() if size else self._buffer

    def _opens(self, text: str) -> bool:
        return any(opener.startswith(text) for opener in self._style.openers)

    def _may_be_call(self, text: str) -> bool:
        """Whether an object that has just begun has no other keys than a call."""
        names = ("name", self._style.arguments)
        try:
            written = from_json(text, allow_partial=True)
        except ValueError:
            return False
        if not written:  # nothing but a brace and the beginning of a key
            key = text.strip().removeprefix("{").lstrip()
            return any(f'"{name}"'.startswith(key[: len(name) + 2]) for name in names)
        return all(key in names for key in written)

    def _advance(self) -> list[str | CallPiece] | None:
        """Take one step; None when more text is needed for the next."""
        match self._state:
            case _State.START:
                return self._start()
            case _State.CONTENT:
                return self._content()
            case _State.CALL:
                return self._call()
            case _State.ARGUMENTS:
                return self._arguments()
            case _State.AFTER:
                return self._after()
            case _State.DONE:
                self._buffer = ""
                return None

    def _start(self) -> list[str | CallPiece] | None:
        rest, is_certain = _skip(self._buffer, self._style.openers)
        if not is_certain:
            return None
        if rest.startswith("{"):
            self._open(len(self._buffer) - len(rest))
        else:
            self._state = _State.CONTENT
        return []

    def _content(self) -> list[str | CallPiece] | None:
        if not self._style.is_inline or (self.num_calls and not self._is_parallel):
            return self._give(len(self._buffer))
        opener = self._style.openers[0]
        found = self._buffer.find(opener)
        if found < 0:
            # White space is held too: it belongs to the call that it may stand before.
            kept = self._buffer[: len(self._buffer) - _overlap(self._buffer, opener)].rstrip()
            return self._give(len(kept))
        text = self._buffer[:found].rstrip()
        pieces = self._give(len(text)) or []
        self._open(self._buffer.index(opener) + len(opener))
        return pieces

    def _give(self, size: int) -> list[str | CallPiece] | None:
        text, self._buffer = self._buffer[:size], self._buffer[size:]
        return [text] if text else None

    def _open(self, size: int) -> None:
        self._opened, self._buffer = self._buffer[:size], self._buffer[size:]
        self._scanner = _ObjectScanner()
        self._state = _State.CALL

    def _call(self) -> list[str | CallPiece] | None:
        head = self._head.match(self._buffer)
        if head is not None:
            self._buffer = self._buffer[head.end() :]
            self._scanner = _ObjectScanner()
            self._state = _State.ARGUMENTS
            return [self._begin(_unescaped(head[1]), "")]
        rest = self._buffer.lstrip()
        if rest and not rest.startswith("{"):
            return self._no_call()
        end = _ObjectScanner().end(rest)
        if end is None:
            return None
        return self._whole_call(rest[:end], rest[end:])

    def _whole_call(self, text: str, rest: str) -> list[str | CallPiece]:
        """A call whose keys came in another order, or whose arguments are no object."""
        try:
            call = from_json(text, allow_inf_nan=False)
        except ValueError:
            return self._no_call()
        name, arguments = call.get("name"), call.get(self._style.arguments)
        if not isinstance(name, str):
            return self._no_call()
        written = "{}" if arguments is None else arguments
        if not isinstance(written, str):
            written = json.dumps(written, ensure_ascii=False)
        self._buffer, self._opened, self._state = rest, "", _State.AFTER
        return [self._begin(name, written)]

    def _no_call(self) -> list[str | CallPiece]:
        text, self._opened = self._opened, ""
        if self._style.is_inline:
            self._state = _State.CONTENT
            return [text]
        self._buffer = text + self._buffer
        self._state = _State.CONTENT
        return []

    def _begin(self, name: str, arguments: str) -> CallPiece:
        self.num_calls += 1
        self._opened = ""
        style = self._style
        call_id = style.id_prefix + uuid.uuid4().hex[: style.id_length]
        return CallPiece(self.num_calls - 1, arguments, call_id, name)

    def _arguments(self) -> list[str | CallPiece] | None:
        if not self._buffer:
            return None
        end = self._scanner.end(self._buffer)
        size = len(self._buffer) if end is None else end
        text, self._buffer = self._buffer[:size], self._buffer[size:]
        if end is not None:
            self._state = _State.AFTER
            self._buffer = self._buffer.lstrip().removeprefix("}")
        return [CallPiece(self.num_calls - 1, text)]

    def _after(self) -> list[str | CallPiece] | None:
        if not self._is_parallel:
            self._state = _State.DONE
            return []
        # The object's own brace may come in a later piece than that of its arguments.
        rest, is_certain = _skip(self._buffer, ("}", *self._style.fillers))
        if not is_certain:
            return None
        if rest.startswith("{"):
            self._open(len(self._buffer) - len(rest))
        else:
            self._buffer = rest
            self._state = _State.CONTENT
        return []


class _ObjectScanner:
    """Finds the end of a JSON object that comes in pieces, by its braces outside of strings."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_text = False
        self._is_escaped = False

    def end(self, text: str) -> int | None:
        """Take the next piece; the index behind the object's last brace, if it is in it."""
        for index, character in enumerate(text):
            if self._is_text:
                if self._is_escaped:
                    self._is_escaped = False
                elif character == "\\":
                    self._is_escaped = True
                elif character == '"':
                    self._is_text = False
            elif character == '"':
                self._is_text = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return index + 1
        return None


def _unescaped(name: str) -> str:
    try:
        return str(from_json(f'"{name}"'))
    except ValueError:
        return name


def _skip(text: str, fillers: tuple[str, ...]) -> tuple[str, bool]:
    """Leave out white space and fillers at the beginning.

    Returns:
        What is left, and whether more text could not make it a filler or nothing.
    """
    while text := text.lstrip():
        if any(filler.startswith(text) and filler != text for filler in fillers):
            return text, False
        found = next((filler for filler in fillers if text.startswith(filler)), None)
        if found is None:
            return text, True
        text = text[len(found) :]
    return text, False


def _overlap(text: str, opener: str) -> int:
    """Length of the longest end of the text with which the opener begins."""
    sizes = range(min(len(text), len(opener) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(opener[:size])), 0)
