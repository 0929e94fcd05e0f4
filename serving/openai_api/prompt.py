"""Messages become prompt tokens, and no user can write a control token.

A template's `<|im_end|>` ends a turn; the same characters inside a message are only characters. So
special tokens are taken from the template's own text alone, and message text is encoded literally.
"""

import re
import secrets
from collections.abc import Sequence

from tokenizers import Tokenizer

from everloop.chat import ChatTemplate
from everloop.records import Message
from serving.openai_api.errors import ApiError


class PromptEncoder:
    """Encodes the prompts of one model version."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        self._template = template
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

    def encode_text(self, text: str) -> list[int]:
        """Encode a completion prompt; it is literal too (control tokens can be sent as ids)."""
        ids: list[int] = self._literal.encode(text).ids
        return ids

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Render the template around the messages and encode the result.

        Raises:
            ApiError: the model has no chat template.
            DataError: the template refuses these messages.
        """
        if self._template is None:
            raise ApiError(
                "This model has no chat template. Use /v1/completions.", param="messages"
            )
        if not any(self._pattern.search(message.content) for message in messages):
            rendered = self._template.render(messages)
            ids: list[int] = self._tokenizer.encode(rendered, add_special_tokens=False).ids
            return ids
        return self._encode_guarded(self._template, messages)

    def _encode_guarded(self, template: ChatTemplate, messages: Sequence[Message]) -> list[int]:
        """Encode messages that contain special tokens' names.

        Each name is replaced by a mark that nobody can guess, so that what the pattern finds in the
        rendered text is the template's; the marks are turned back inside the literal pieces.
        """
        marks = {name: f"\ue000{secrets.token_hex(8)}\ue001" for name in self._specials}
        names = {mark: name for name, mark in marks.items()}
        turn_back = re.compile("|".join(map(re.escape, names)))
        guarded = [
            message.model_copy(
                update={"content": self._pattern.sub(lambda m: marks[m[0]], message.content)}
            )
            for message in messages
        ]
        rendered = template.render(guarded)
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
        ids: list[int] = self._literal.encode(text, add_special_tokens=False).ids
        return ids
