"""The forms in which conversations, preferences and ratings are published, as one record.

- messages: `messages` (OpenAI fine-tuning, with `weight` and `tools`; with `label` a rated answer)
- OpenAI preference: `input.messages`, `preferred_output`, `non_preferred_output`
- TRL: `prompt` with `completion` (and `label`), or with `chosen` and `rejected`; the prompt may be
  the common beginning of both; texts or lists of turns
- ShareGPT: `conversations` with `from` and `value`
- Alpaca: `instruction`, `input`, `output`
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from everloop.records import Message

Turns = tuple[Message, ...]
_SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant",
    "bing": "assistant", "bard": "assistant", "assistant": "assistant", "model": "assistant",
    "system": "system", "tool": "tool",
}  # fmt: skip
_INVISIBLE = ("Cc", "Cf")  # control characters, and marks such as a space without a width
# hh-rlhf writes whole dialogues as one text.
_SPEAKER = re.compile(r"\n\n(Human|Assistant): ?")


class MalformedRowError(ValueError):
    """A row cannot be used; the message is a reason of the closed set."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A conversation, preference or rating, as `DatasetRow` has it."""

    messages: Turns
    chosen: Turns | None = None
    rejected: Turns | None = None
    label: bool | None = None
    tools: tuple[dict[str, Any], ...] | None = None


def read_exchange(row: Mapping[str, Any]) -> Exchange | None:
    """Recognise the form of a row by its keys; None if it is none of them.

    Raises:
        MalformedRowError: it is one of them and cannot be used.
    """
    exchange = _exchange(row)
    if exchange is None:
        return None
    learnt = exchange.messages[:-1] if exchange.label is False else exchange.messages
    if any(map(_is_empty_answer, (*learnt, *(exchange.chosen or ())))):
        raise MalformedRowError("empty_answer")
    asked = row.get("input")
    tools = asked.get("tools") if isinstance(asked, dict) else row.get("tools")
    if row.get("functions"):
        raise MalformedRowError("functions_instead_of_tools")
    return replace(exchange, tools=_tools(tools))


def _exchange(row: Mapping[str, Any]) -> Exchange | None:
    if "messages" in row:
        return _rated(_trimmed(row["messages"]), row.get("label"))
    if "preferred_output" in row or "non_preferred_output" in row:
        prompt = row["input"].get("messages") if isinstance(row.get("input"), dict) else None
        return _preference(prompt, row.get("preferred_output"), row.get("non_preferred_output"))
    if "chosen" in row and "rejected" in row:
        return _preference(row.get("prompt"), row["chosen"], row["rejected"])
    if "prompt" in row and "completion" in row:
        prompt = _turns(row["prompt"], "user")
        return _rated((*prompt, *_turns(row["completion"], "assistant")), row.get("label"))
    if "conversations" in row:
        return _rated(_sharegpt(row["conversations"]), None)
    if "completions" in row and "labels" in row:
        raise MalformedRowError("stepwise_supervision")
    if "instruction" in row and "output" in row:
        parts = [row["instruction"], row.get("input") or ""]
        if not all(isinstance(part, str) for part in parts):
            raise MalformedRowError("bad_message")
        question = "\n\n".join(filter(None, parts))
        return _rated((*_turns(question, "user"), *_turns(row["output"], "assistant")), None)
    return None


def _rated(messages: Turns, label: object) -> Exchange:
    if not messages:
        raise MalformedRowError("no_messages")
    if messages[-1].role != "assistant":
        raise MalformedRowError("no_answer")
    if label is None:
        return Exchange(messages)
    if label not in (True, False, 0, 1):
        raise MalformedRowError("bad_label")
    return Exchange(messages, label=bool(label))


def _preference(prompt: object, chosen: object, rejected: object) -> Exchange:
    better, worse = _turns(chosen, "assistant"), _turns(rejected, "assistant")
    if prompt is None:
        common = _common_length(better, worse)
        asked, better, worse = better[:common], better[common:], worse[common:]
    else:
        asked = _turns(prompt, "user")
    if not asked:
        raise MalformedRowError("no_prompt")
    if not better or not worse or "assistant" not in (better[-1].role, worse[-1].role):
        raise MalformedRowError("no_answer")
    if _bare(better) == _bare(worse):
        raise MalformedRowError("no_preference")
    return Exchange(asked, better, worse)


def _is_empty_answer(turn: Message) -> bool:
    """Whether an answer to learn says nothing that can be seen; silence that is refused may."""
    is_shown = any(
        not sign.isspace() and unicodedata.category(sign) not in _INVISIBLE for sign in turn.content
    )
    return turn.role == "assistant" and not is_shown and not turn.tool_calls


def _bare(turns: Turns) -> Turns:
    return tuple(turn.map_text(str.strip) for turn in turns)


def _common_length(better: Turns, worse: Turns) -> int:
    """How many turns are the prompt: what both begin with, and never the last."""
    length = 0
    while length < min(len(better), len(worse)) - 1 and better[length] == worse[length]:
        length += 1
    return length


def _trimmed(turns: object) -> Turns:
    """OpenAI's `weight`: an answer of weight 0 is context, which only an end can be cut from."""
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise MalformedRowError("no_messages")
    kept = list(turns)
    while kept and isinstance(kept[-1], dict) and kept[-1].get("weight") == 0:
        kept.pop()
        while kept and isinstance(kept[-1], dict) and kept[-1].get("role") != "assistant":
            kept.pop()
    if not kept:
        raise MalformedRowError("no_weighted_answer")
    if any(isinstance(turn, dict) and turn.get("weight") == 0 for turn in kept):
        raise MalformedRowError("weight_zero_inside")
    return _turns(kept, "user")


def _turns(value: object, role: str) -> Turns:
    if isinstance(value, str):
        parts = _SPEAKER.split(value)
        if len(parts) > 1 and not parts[0].strip():
            return tuple(
                _message({"role": "user" if speaker == "Human" else "assistant", "content": text})
                for speaker, text in zip(parts[1::2], parts[2::2], strict=True)
            )
        return (_message({"role": role, "content": value}),)
    if isinstance(value, dict):
        return (_message(value),)
    if not isinstance(value, Sequence) or not value:
        raise MalformedRowError("no_messages")
    return tuple(map(_message, value))


def _sharegpt(turns: object) -> Turns:
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise MalformedRowError("no_messages")
    messages = []
    for turn in turns:
        if not isinstance(turn, dict):
            raise MalformedRowError("bad_message")
        role = _SHAREGPT_ROLES.get(str(turn.get("from", turn.get("role"))))
        messages.append(_message({"role": role, "content": turn.get("value", turn.get("content"))}))
    return tuple(messages)


def _tools(value: object) -> tuple[dict[str, Any], ...] | None:
    """A list of functions; tables hold it as the text of one."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise MalformedRowError("bad_tools") from error
    if not value:
        return None
    if not isinstance(value, Sequence) or not all(isinstance(tool, dict) for tool in value):
        raise MalformedRowError("bad_tools")
    return tuple(value)


def _message(turn: object) -> Message:
    if not isinstance(turn, Mapping):
        raise MalformedRowError("bad_message")
    fields = {key: value for key, value in turn.items() if key != "weight" and value is not None}
    if fields.get("tool_calls") and "content" not in fields:
        fields["content"] = ""
    try:
        return Message.model_validate(fields)
    except ValidationError as error:
        raise MalformedRowError("bad_message") from error
