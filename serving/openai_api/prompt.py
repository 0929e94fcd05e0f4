"""Messages become prompt tokens, and no user can write a control token.

A template's `<|im_end|>` ends a turn; the same characters inside a message are only characters. So
special tokens are taken from the template's own text alone, and message text is encoded literally.
"""

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from tokenizers import Tokenizer

from everloop.chat import ChatTemplate, template_turns
from everloop.records import Message
from serving.openai_api.context_limits import ContextLimits
from serving.openai_api.errors import ApiError


class PromptEncoder:
    """Encodes the prompts of one model version.

    Args:
        tokenizer: of the version.
        template: None for a model that only completes text.
        limits: of its context; None for texts of one's own.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        limits: ContextLimits | None = None,
    ) -> None:
        self._template = template
        self._limits = limits
        self._tokenizer = tokenizer
        # A copy: the switch is a property of a tokenizer, and the engine shares the original.
        self._literal = Tokenizer.from_str(tokenizer.to_str())
        self._literal.encode_special_tokens = True
        self._specials = {
            token.content: token_id
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        longest_first = sorted(self._specials, key=len, reverse=True)
        # Without special tokens: a pattern that matches nowhere.
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def encode_text(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Encode a completion prompt; it is literal too (control tokens can be sent as ids)."""
        return _ids(self._literal, text, add_special_tokens=add_special_tokens)

    def encode_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Render the template around the messages and encode the result.

        Args:
            messages: the conversation.
            tools: functions that the model may call.
            add_generation_prompt: open the turn of the answer.
            variables: of the template's own.

        Raises:
            ApiError: the model has no chat template.
            DataError: the template refuses these messages.
        """
        template = self._template
        if template is None:
            raise ApiError(
                "This model has no chat template. Use /v1/completions.", param="messages"
            )

        render = partial(template.render_turns, add_generation_prompt=add_generation_prompt)
        written: dict[str, Any] = {
            "turns": template_turns(messages),
            "tools": list(tools),
            "variables": dict(variables or {}),
        }
        if any(self._pattern.search(text) for text in _texts(written)):
            return self._encode_guarded(render, written)
        return _ids(self._tokenizer, self._checked(render(**written)))

    def _encode_guarded(self, render: Callable[..., str], written: dict[str, Any]) -> list[int]:
        """Encode what was written with the names of special tokens in it.

        Each name is replaced by a mark that nobody can guess, so that what the pattern finds in the
        rendered text is the template's; the marks are turned back inside the literal pieces.
        """
        marks = {name: f"\ue000{secrets.token_hex(8)}\ue001" for name in self._specials}
        names = {mark: name for name, mark in marks.items()}
        turn_back = re.compile("|".join(map(re.escape, names)))

        def guard(text: str) -> str:
            return self._pattern.sub(lambda found: marks[found[0]], text)

        rendered = self._checked(render(**_map_texts(written, guard)))
        ids: list[int] = []
        start = 0
        for match in self._pattern.finditer(rendered):
            ids += self._literal_ids(
                turn_back.sub(lambda m: names[m[0]], rendered[start : match.start()])
            )
            ids.append(self._specials[match[0]])
            start = match.end()
        return ids + self._literal_ids(turn_back.sub(lambda m: names[m[0]], rendered[start:]))

    def _literal_ids(self, text: str) -> list[int]:
        return _ids(self._literal, text)

    def _checked(self, rendered: str) -> str:
        if self._limits is not None:
            self._limits.check_rendered(rendered)
        return rendered


def _ids(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool = False) -> list[int]:
    # As a batch of one: only so the library lets other threads run meanwhile.
    [encoding] = tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
    ids: list[int] = encoding.ids
    return ids


def decode_ids(tokenizer: Tokenizer, token_ids: list[int]) -> str:
    """The text of tokens, the names of special ones included; lets other threads run."""
    [text] = tokenizer.decode_batch([token_ids], skip_special_tokens=False)
    return str(text)


def check_ids(token_ids: list[int], vocab_size: int, where: str) -> list[int]:
    """Give the ids, all of which the model has.

    Raises:
        ApiError: names the first that it has not.
    """
    for index, token_id in enumerate(token_ids):
        if not 0 <= token_id < vocab_size:
            raise ApiError(
                f"{where}[{index}]: token id {token_id} is not in the vocabulary (0 to "
                f"{vocab_size - 1}).",
                param=f"{where}[{index}]",
            )
    return token_ids


def encode_prompts(
    encoder: PromptEncoder, prompts: Sequence[str | list[int]], vocab_size: int, field: str
) -> list[list[int]]:
    """The token ids of texts, and of token ids, which are checked.

    Raises:
        ApiError: one is empty, or has a token that the model does not know; names it by the field.
    """
    encoded = []
    for number, prompt in enumerate(prompts):
        where = f"{field}[{number}]" if len(prompts) > 1 else field
        if isinstance(prompt, str):
            ids = encoder.encode_text(prompt)
        else:
            ids = check_ids(prompt, vocab_size, where)
        if not ids:
            raise ApiError(f"{where} is empty; send at least one token.", param=where)
        encoded.append(ids)
    return encoded


def _texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, member in value.items():
            yield key
            yield from _texts(member)
    elif isinstance(value, list | tuple):
        for member in value:
            yield from _texts(member)


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """The same JSON value with every text changed, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _map_texts(member, change) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_map_texts(member, change) for member in value]
    return value
