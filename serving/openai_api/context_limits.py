"""What a body may hold, by the context of the model that answers; counted before it is built.

A prompt that has more messages, parts, calls or characters than the context can take is refused
here, in time that follows the limit and not the body: JSON of a few bytes an item would otherwise
become millions of objects, and a text of megabytes would be encoded to learn that it is too long.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.openai_api.errors import ApiError

# More than any text has over the length of a context: prose has four to five, code with deep
# indentation six.
CHARACTERS_PER_TOKEN = 16
_BYTES_PER_TOKEN = 32  # the same characters as JSON may escape them
_FIXED_BYTES = 1 << 20  # tools, schemas, several prompts, whatever the context
_FIXED_ITEMS = 1 << 14  # the same, in objects, lists and keys
_ITEMS_PER_TOKEN = 4
_FIXED_VALUES = 1 << 17  # the same, in values: lists of token ids have many
_VALUES_PER_TOKEN = 16


@dataclass(frozen=True, slots=True)
class ContextLimits:
    """The limits of one request.

    Attributes:
        max_tokens: the context of the model.
    """

    max_tokens: int

    @property
    def max_characters(self) -> int:
        """Of one prompt."""
        return self.max_tokens * CHARACTERS_PER_TOKEN

    @property
    def max_bytes(self) -> int:
        """Of a body."""
        return _FIXED_BYTES + self.max_tokens * _BYTES_PER_TOKEN

    def check_items(self, body: bytes) -> None:
        """Refuse JSON of too many objects, lists, keys or values, before it is read.

        Raises:
            ApiError: 413.
        """
        bare = body
        for marks, limit, what in (
            (b"{[:", _FIXED_ITEMS + self.max_tokens * _ITEMS_PER_TOKEN, "objects, lists and keys"),
            (b",", _FIXED_VALUES + self.max_tokens * _VALUES_PER_TOKEN, "values"),
        ):
            if _count(bare, marks) <= limit:
                continue
            bare = _without_texts(body)  # which may hold any number of marks
            if (found := _count(bare, marks)) > limit:
                raise ApiError(
                    f"The body has {found:,} {what}. A model whose context is "
                    f"{self.max_tokens:,} tokens is given {limit:,} at most.",
                    status=413,
                    code="body_too_large",
                )

    def check_fields(self, fields: Mapping[str, Any]) -> None:
        """Refuse a prompt that cannot fit the context, whatever the tokenizer.

        Raises:
            ApiError: context_length_exceeded, with what there is too much of.
        """
        for name in ("messages", "tools"):
            if isinstance(fields.get(name), list):
                self._check_messages(name, fields[name])
        for name in ("prompt", "input"):
            self._check_prompts(name, fields.get(name))
        if isinstance(tokens := fields.get("tokens"), list):
            self._check("tokens", len(tokens), self.max_tokens, "token ids")

    def check_rendered(self, text: str) -> None:
        """Refuse a prompt that a template has made too long.

        Raises:
            ApiError: context_length_exceeded.
        """
        # Twice: the names of control tokens are long, and guarded ones are longer.
        self._check("messages", len(text), 2 * self.max_characters, "characters")

    def _check_messages(self, name: str, messages: list[Any]) -> None:
        self._check(name, len(messages), self.max_tokens, name)
        parts = calls = characters = 0
        for message in messages:
            if not isinstance(message, dict):
                continue
            parts += _size(message.get("content"))
            calls += _size(message.get("tool_calls"))
            self._check(name, parts, self.max_tokens, "parts")
            self._check(name, calls, self.max_tokens, "tool calls")
            characters += text_length(message)
            self._check(name, characters, self.max_characters, "characters")

    def _check_prompts(self, name: str, given: Any) -> None:
        is_batch = isinstance(given, list) and given and isinstance(given[0], list | str)
        for number, prompt in enumerate(given if is_batch else [given]):
            where = f"{name}[{number}]" if is_batch and len(given) > 1 else name
            if isinstance(prompt, str):
                self._check(where, len(prompt), self.max_characters, "characters")
            elif isinstance(prompt, list):
                self._check(where, len(prompt), self.max_tokens, "token ids")

    def _check(self, where: str, found: int, limit: int, what: str) -> None:
        if found > limit:
            raise too_long(self.max_tokens, f"{where} has {found:,} {what}", where)


def too_long(max_tokens: int, found: str, param: str) -> ApiError:
    """What a request is told that does not fit; it begins with OpenAI's words, which clients read.

    Args:
        max_tokens: the context of the model.
        found: what the request has, as the beginning of a sentence.
        param: the field.
    """
    return ApiError(
        f"This model's maximum context length is {max_tokens} tokens. However, {found}. Shorten "
        "the prompt or lower the limit of the answer.",
        param=param,
        code="context_length_exceeded",
    )


def text_length(value: Any) -> int:
    """The characters of all texts in a JSON value, keys included."""
    total, left = 0, [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            total += len(one)
        elif isinstance(one, dict):
            left += one.keys()
            left += one.values()
        elif isinstance(one, list):
            left += one
    return total


def _count(body: bytes, marks: bytes) -> int:
    return sum(body.count(mark) for mark in marks)


def _without_texts(body: bytes) -> bytes:
    escaped = body.replace(rb"\\", b"").replace(rb"\"", b"")
    return b"".join(escaped.split(b'"')[::2])


def _size(value: Any) -> int:
    return len(value) if isinstance(value, list) else 0
