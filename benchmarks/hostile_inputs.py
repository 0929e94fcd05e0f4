"""Requests that once cost others their tokens, or were made to: what benchmarks.hostile sends.

Each is sent as bytes over a connection of its own, so that also what no client library would send
can be.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.hostile_grammars import HOSTILE, keys, lark, regex, schema
from serving.engine.sampling_params import StructuredOutput
from serving.openai_api.context_limits import ContextLimits

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
MEBIBYTE = 2**20
_QUESTION = {"role": "user", "content": "Hi"}
_CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
_TOKENS = 16  # of an answer


@dataclass(frozen=True, slots=True, kw_only=True)
class HostileInput:
    """One input.

    Attributes:
        name: what it is.
        path: it goes to.
        bodies: as they are sent, each in a request of its own, all at once.
        method: of the requests.
        headers: beside the usual ones; those of the same name replace them.
        leaves_after: seconds after which the client closes its connections without a word.
    """

    name: str
    path: str
    bodies: Sequence[bytes] = (b"",)
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    leaves_after: float | None = None


def corpus(model: str, context: int) -> list[HostileInput]:
    """All inputs.

    Args:
        model: its name.
        context: its length in tokens, from which the limits of a body follow.
    """
    return [
        *_numbers(model),
        *_bodies(model, context),
        *_texts(model, context),
        *_grammars(model),
        *_much_at_once(model, context),
        *_connections(model, context),
    ]


def too_long(context: int) -> dict[str, dict[str, Any]]:
    """Fields of chats that are longer than the context, by what there is too much of."""
    part = {"type": "text", "text": ""}
    text = {"role": "user", "content": "x" * 1000}
    return {
        "messages": {"messages": [_QUESTION] * (context + 1)},
        "empty messages": {"messages": [{}] * (context + 1)},
        "parts": {"messages": [{"role": "user", "content": [part] * (context + 88)}]},
        "parts of several": {
            "messages": [{"role": "user", "content": [part] * (context // 9 + 4)}] * 9
        },
        "calls": {"messages": [{"role": "assistant", "tool_calls": [_CALL] * (context + 88)}]},
        "characters": {"messages": [{"role": "user", "content": "x" * (16 * context + 1)}]},
        "characters of several": {"messages": [text] * (16 * context // 1000 + 1)},
        "characters of parts": {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "x" * 1000}] * (16 * context // 1000 + 1),
                }
            ]
        },
        "names": {"messages": [_QUESTION | {"name": "x" * (16 * context + 1)}]},
    }


def _chat(name: str, model: str, **fields: Any) -> HostileInput:
    return HostileInput(name=name, path=CHAT, bodies=[_chat_body(model, fields)])


def _chat_body(model: str, fields: Mapping[str, Any]) -> bytes:
    usual = {"model": model, "messages": [_QUESTION], "max_tokens": _TOKENS}
    return json.dumps({**usual, **fields}).encode()


def _numbers(model: str) -> list[HostileInput]:
    """Parameters at the edges of what they may be."""
    extremes: list[dict[str, Any]] = [
        {"repetition_penalty": 1e-300},
        {"repetition_penalty": 1e300},
        {"temperature": 1e-300},
        {"top_p": 1e-300, "temperature": 1},
        {"min_p": 1 - 1e-17, "temperature": 1},
        {"frequency_penalty": -2, "presence_penalty": -2},
        {"top_k": 2**63 - 1, "temperature": 1, "seed": -(2**63)},
        {"logit_bias": {str(token): -100 for token in range(1000)}},
        {"logprobs": True, "top_logprobs": 20},
        {"max_tokens": 10**400},
    ]
    return [_chat(_named(one), model, **one) for one in extremes] + [
        _chat("4 stops of 20,000 characters", model, stop=[c * 20_000 for c in "abcd"]),
        _chat("4 stops of 1,000 characters", model, stop=[c * 1_000 for c in "abcd"]),
        _chat("1,000 stop tokens", model, stop_token_ids=list(range(1000)), min_tokens=8),
    ]


def _named(fields: Mapping[str, Any]) -> str:
    """Names and values, as far as they are short."""
    texts = [f"{name} {value}" for name, value in fields.items()]
    return ", ".join(text if len(text) <= 40 else text[:37] + "..." for text in texts)


def _bodies(model: str, context: int) -> list[HostileInput]:
    """Bodies that cost much for their bytes: beyond the limits, and just within."""
    begin = f'{{"model":"{model}","max_tokens":{_TOKENS},"messages":['.encode()
    message = b'{"role":"user","content":"a"}'
    room = ContextLimits(context).max_bytes - len(begin) - 2
    raw = {
        "1.39 M empty messages": begin + b"{}," * (4 * MEBIBYTE // 3) + b"{}]}",
        "empty messages in a legal body": begin + b"{}," * (room // 3 - 1) + b"{}]}",
        "110,000 messages": begin + (message + b",") * 110_000 + message + b"]}",
        "60,000 tool calls": _with(begin, [{"role": "assistant", "tool_calls": [_CALL] * 60_000}]),
        "lists in lists": begin + b"[" * (room // 2) + b"]" * (room // 2) + b"]}",
        "keys": begin + b"{" + b'"a":1,' * (room // 7) + b'"a":1}]}',
        "a number of many digits": begin + b"9" * room + b"]}",
        "numbers": b'{"model":"x","prompt":[' + b"1," * (room // 2 - 40) + b"1]}",
        "no UTF-8": begin + b"\xff" * room + b"]}",
        "lone surrogates": begin + rb'{"role":"user","content":"\ud800\udfff\ud800"}]}',
        "unclosed": begin + b'{"role":"user","content":"' + b"x" * (room // 2),
    }
    fields = {f"beyond the context: {name}": value for name, value in too_long(context).items()}
    return [
        *(HostileInput(name=name, path=CHAT, bodies=[body]) for name, body in raw.items()),
        *(_chat(name, model, **value) for name, value in fields.items()),
        _chat("as many messages as tokens", model, messages=[_QUESTION] * context),
        _chat("free keys", model, metadata={f"k{number}": "x" * 500 for number in range(16)}),
        _chat("128 tools", model, tools=[_tool(number) for number in range(128)]),
        _chat(
            "128 tools, one required",
            model,
            tools=[_tool(number) for number in range(128)],
            tool_choice="required",
        ),
    ]


def _with(begin: bytes, messages: list[Any]) -> bytes:
    return begin + json.dumps(messages).encode()[1:] + b"}"


def _tool(number: int) -> dict[str, Any]:
    return {"type": "function", "function": {"name": f"f{number}", "parameters": keys(20)}}


def _texts(model: str, context: int) -> list[HostileInput]:
    """Texts that tokenizers and templates read slowly."""
    size = 16 * context
    texts = {
        "one letter": "a" * size,
        "spaces": " " * size,
        "line breaks": "\n" * size,
        "digits": "1" * size,
        "emoji": "🙂" * size,
        "combining marks": "a" + "\u0301" * (size - 1),
        "control tokens": "<|im_start|>" * (size // 12),
        "null characters": "\x00" * size,
    }
    found = [
        HostileInput(
            name=f"{path.rpartition('/')[2]} of {size:,} characters: {name}",
            path=path,
            bodies=[json.dumps({"model": model, "prompt": text, "max_tokens": _TOKENS}).encode()],
        )
        for name, text in texts.items()
        for path in ("/tokenize", COMPLETIONS)
    ]
    comment = {"interaction_id": "x", "rating": "up", "comment": "x" * size}
    feedback = json.dumps(comment).encode()
    return [*found, HostileInput(name="long comment", path="/v1/feedback", bodies=[feedback])]


def _grammars(model: str) -> list[HostileInput]:
    """Grammars that are refused, and the costliest that are not."""
    legal = {
        "450 keys, 7 schemas": [schema(keys(450, f"k{number}")) for number in range(7)],
        "4,500 keys of 10 objects": [
            schema({"anyOf": [keys(450, f"k{number}_") for number in range(10)]})
        ],
        "19,600 symbols, 8 patterns": [regex(f"(a{{140}}){{{140 - n}}}") for n in range(8)],
        "fuel of the lexer": [lark("start: A\nA: /.*a.{30}/ & /.*b.{40}/ & /.*c.{50}/")],
        "ambiguous, 8 at once": [lark('start: s\ns: "a" | s s | s s s')] * 8,
        "rule of itself": [lark('start: "x" a\na: a')],
        "endless object": [
            schema({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})
        ],
    }
    refused = [_held(f"grammar: {name}", model, [one]) for name, (one, _) in HOSTILE.items()]
    return refused + [_held(f"grammar: {name}", model, many) for name, many in legal.items()]


def _held(name: str, model: str, grammars: Sequence[StructuredOutput]) -> HostileInput:
    names = {"json_schema": "json", "regex": "regex", "lark": "grammar"}
    fields = [{"structured_outputs": {names[one.kind]: one.text}} for one in grammars]
    return HostileInput(name=name, path=CHAT, bodies=[_chat_body(model, one) for one in fields])


def _much_at_once(model: str, context: int) -> list[HostileInput]:
    """What one client may ask for in one request, or in a few."""
    ids = [5 + number % 50 for number in range(context - _TOKENS)]
    one_long = json.dumps({"model": model, "prompt": ids, "max_tokens": _TOKENS}).encode()
    scored = {"model": model, "prompt": ids[: context // 2], "echo": True, "logprobs": 5}
    many = {"model": model, "input": [ids[: context // 16]] * 128}
    return [
        _chat("128 answers", model, n=128, temperature=1),
        HostileInput(name="8 long prompts", path=COMPLETIONS, bodies=[one_long] * 8),
        HostileInput(
            name="logprobs of a prompt",
            path=COMPLETIONS,
            bodies=[json.dumps(scored | {"max_tokens": 1}).encode()],
        ),
        HostileInput(name="128 embeddings", path=EMBEDDINGS, bodies=[json.dumps(many).encode()]),
        HostileInput(name="64 chats", path=CHAT, bodies=[_chat_body(model, {})] * 64),
        HostileInput(
            name="16 chats of one Idempotency-Key",
            path=CHAT,
            bodies=[_chat_body(model, {})] * 16,
            headers={"idempotency-key": "hostile"},
        ),
    ]


def _connections(model: str, context: int) -> list[HostileInput]:
    """What clients do with their connections."""
    chat = _chat_body(model, {"stream": True, "max_tokens": context // 2})
    return [
        HostileInput(name="64 clients that leave", path=CHAT, bodies=[chat] * 64, leaves_after=0.2),
        HostileInput(
            name="200 idle connections",
            path=CHAT,
            bodies=[b""] * 200,
            headers={"content-length": "100"},
            leaves_after=0.5,
        ),
        HostileInput(
            name="body that never ends",
            path=CHAT,
            bodies=[b"{"],
            headers={"content-length": "100", "x-request-timeout": "0.3"},
        ),
        HostileInput(
            name="head of 60 KiB", path=CHAT, bodies=[chat], headers={"x-long": "x" * 60 * 1024}
        ),
        HostileInput(name="line break in the path", path="/v1/models%0A", method="GET"),
        HostileInput(name="long path", path="/v1/" + "x" * 8000, method="GET"),
        HostileInput(name="no HTTP", path=CHAT, method="\x00\x01"),
    ]
