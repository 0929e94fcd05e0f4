# ruff: noqa: F811 - the fixtures are those of tests/serving
"""Bodies that cost much for their bytes: refused by a count, before anything is built of them."""

import asyncio
import json
import socket
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from pydantic import ValidationError

from benchmarks.hostile_inputs import too_long
from everloop.errors import QueueFullError
from serving.openai_api import context_limits, request_body, state, workers
from serving.openai_api.chat_request import ChatCompletionRequest
from serving.openai_api.completion_request import CompletionRequest
from serving.openai_api.context_limits import ContextLimits
from serving.openai_api.embeddings import EmbeddingRequest
from serving.openai_api.errors import ApiError
from serving.openai_api.feedback import FeedbackRequest
from serving.openai_api.prompt import PromptEncoder
from serving.openai_api.tokenize import DetokenizeRequest, TokenizeRequest
from serving.openai_api.workers import Workers
from tests.serving.conftest import (  # noqa: F401 - fixtures
    _http,
    app,
    config,
    engine,
    http,
    observer,
    recorder,
    stage,
    url,
)
from tests.serving.fakes import wait_until

CHAT = "/v1/chat/completions"
CONTEXT = 512  # of the scripted engine
QUESTION = {"role": "user", "content": "Hi"}
BODY = {"model": "everloop", "messages": [QUESTION]}
TOO_LONG = too_long(CONTEXT)
PROMPT_TOO_LONG = {
    "text": "x" * (16 * CONTEXT + 1),
    "texts": ["a", "x" * (16 * CONTEXT + 1)],
    "ids": [5] * (CONTEXT + 1),
    "lists of ids": [[5], [5] * (CONTEXT + 1)],
}


@pytest.fixture
def built(monkeypatch):
    """Names of what is made of bodies: requests that are validated, and prompts."""
    names = []
    validate = request_body.RequestBody.model_validate.__func__

    def model_validate(cls, *args, **kwargs):
        names.append(cls.__name__)
        return validate(cls, *args, **kwargs)

    monkeypatch.setattr(request_body.RequestBody, "model_validate", classmethod(model_validate))
    for name in ("encode_chat", "encode_text"):
        original = getattr(PromptEncoder, name)

        def spy(self, *args, _original=original, _name=name, **kwargs):
            names.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(PromptEncoder, name, spy)
    return names


@pytest.mark.parametrize("fields", TOO_LONG.values(), ids=TOO_LONG.keys())
@pytest.mark.parametrize("path", [CHAT, "/tokenize"])
def test_prompt_beyond_the_context_is_counted_and_not_built(http, built, path, fields):
    reply = http.post(path, json=BODY | fields)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "messages"
    assert error["message"].startswith("This model's maximum context length is 512 tokens.")
    assert built == []


@pytest.mark.parametrize("prompt", PROMPT_TOO_LONG.values(), ids=PROMPT_TOO_LONG.keys())
@pytest.mark.parametrize(
    ("path", "field"), [("/v1/completions", "prompt"), ("/v1/embeddings", "input")]
)
def test_texts_and_ids_beyond_the_context_are_not_encoded(http, built, path, field, prompt):
    reply = http.post(path, json={"model": "everloop", field: prompt})
    assert reply.json()["error"]["code"] == "context_length_exceeded"
    assert reply.json()["error"]["param"].startswith(field)
    assert built == []


def test_ids_beyond_the_context_are_not_decoded(http, built):
    reply = http.post("/detokenize", json={"tokens": [5] * (CONTEXT + 1)})
    assert reply.json()["error"]["code"] == "context_length_exceeded"
    assert built == []


def test_tools_count_too(http, built):
    tool = {"type": "function", "function": {"name": "f", "description": "x" * 9000}}
    reply = http.post(CHAT, json=BODY | {"tools": [tool]})
    assert reply.json()["error"]["param"] == "tools"
    assert built == []


def test_millions_of_empty_messages_are_never_read(http, built, monkeypatch):
    read = []
    monkeypatch.setattr(request_body, "from_json", lambda *args, **kwargs: read.append(args))
    body = b'{"model":"everloop","messages":[' + b"{}," * 300_000 + b"{}]}"
    reply = http.post(CHAT, content=body)
    assert reply.status_code == 413
    assert "300,005 objects, lists and keys" in reply.json()["error"]["message"]
    assert (read, built) == ([], [])


def test_brackets_inside_texts_are_no_objects():
    limits = ContextLimits(64)
    text = json.dumps({"a": ['{[\\"' * 19000, "\\", '"{' * 19000]}).encode()
    assert text.count(b"{") > 38000
    limits.check_items(text)
    with pytest.raises(ApiError, match="17,003 objects, lists and keys"):
        limits.check_items(b'{"a": [' + b"[]," * 17_000 + b"1]}")
    with pytest.raises(ApiError, match="17,001 objects, lists and keys"):
        limits.check_items(b"{" + b'"a":1,' * 17_000 + b"}")
    with pytest.raises(ApiError, match="200,001 values"):
        limits.check_items(b'{"prompt":[' + b"1," * 200_001 + b"1]}")


@pytest.mark.parametrize("announced", [True, False])
def test_body_limit_follows_from_the_context(http, engine, announced):
    size = ContextLimits(CONTEXT).max_bytes
    body = b'{"model":"everloop","messages":[{"role":"user","content":"%b"}]}' % (b"x" * size)
    content = body if announced else (body[i : i + 65536] for i in range(0, len(body), 65536))
    reply = http.post(CHAT, content=content)
    assert reply.status_code == 413
    assert f"{size:,} bytes" in reply.json()["error"]["message"]
    engine.current.max_model_len = 10**6
    assert state.ApiState.max_body_bytes.fget(_api(engine)) == 4 * 2**20  # server.max_body_bytes


def _api(engine):
    from serving.openai_api.config import ServerConfig

    return state.ApiState(engine, None, None, None, ServerConfig())


def _lists(schema, path=""):
    """The lists of a core schema, with the way to each."""
    if isinstance(schema, dict):
        if schema.get("type") == "list":
            yield path, schema
        for key, value in schema.items():
            if key not in ("metadata", "serialization", "json_schema_input_schema"):
                yield from _lists(value, f"{path}.{key}")
    elif isinstance(schema, list | tuple):
        for number, value in enumerate(schema):
            yield from _lists(value, f"{path}.{number}")


@pytest.mark.parametrize(
    "schema",
    [
        ChatCompletionRequest,
        CompletionRequest,
        EmbeddingRequest,
        FeedbackRequest,
        TokenizeRequest,
        DetokenizeRequest,
    ],
)
def test_every_list_of_a_body_stops_at_its_first_wrong_member(schema):
    lists = dict(_lists(schema.__pydantic_core_schema__))
    assert lists or schema is FeedbackRequest
    assert [path for path, one in lists.items() if not one.get("fail_fast")] == []


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{}] * 9000},
        {"messages": [{"role": "assistant", "tool_calls": [{}] * 9000}]},
        {"messages": [{"role": "user", "content": [{"type": "text"}] * 9000}]},
        {"tools": [{}] * 9000},
        {"stop": [1] * 9000},
        {"stop_token_ids": ["x"] * 9000},
        {"logit_bias": {f"a{number}": "x" for number in range(9000)}},
        {"metadata": {f"a{number}": 1 for number in range(9000)}},
        {"chat_template_kwargs": {f"a{number}": [] for number in range(9000)}},
        {"structured_outputs": {"choice": [1] * 9000}},
        {"tool_choice": {f"a{number}": 1 for number in range(9000)}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_few_errors_are_made_of_many_faults(fields):
    with pytest.raises(ValidationError) as caught:
        ChatCompletionRequest.model_validate(BODY | fields)
    assert caught.value.error_count() <= 8


@pytest.fixture
def blocked(app):
    """Makes the threads of one kind wait until the test ends."""
    go = threading.Event()

    def block(pool: Workers, count: int) -> None:
        for _ in range(count):
            pool._pool.submit(go.wait, 60)

    yield block
    go.set()


def test_time_runs_from_arrival_and_ends_what_waits_for_admission(http, app, engine, blocked):
    api = app.state.api
    blocked(api.prompts, 2)
    reply = http.post(CHAT, json=BODY, headers={"x-request-timeout": "0.2"})
    assert reply.status_code == 504
    assert reply.json()["error"]["code"] == "timeout"
    assert (engine.requests, api.prompts.num_begun) == ([], 0)


def test_grammars_of_one_client_do_not_hold_up_the_chats_of_others(http, app, engine, blocked):
    api = app.state.api
    blocked(api.grammars, 1)
    wanted = {"response_format": {"type": "json_object"}}
    timeout = {"x-request-timeout": "0.2"}
    assert http.post(CHAT, json=BODY).status_code == 200
    assert http.post(CHAT, json=BODY | wanted, headers=timeout).status_code == 504
    assert http.post(CHAT, json=BODY).status_code == 200
    assert (len(engine.requests), api.grammars.num_begun) == (2, 0)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, BODY),
        (CHAT, BODY | {"metadata": {"a": "x" * 20_000}}),
        (CHAT, BODY | {"response_format": {"type": "json_object"}}),
        ("/v1/completions", {"model": "everloop", "prompt": "Hi"}),
        ("/v1/embeddings", {"model": "everloop", "input": "Hi"}),
        ("/tokenize", {"prompt": "Hi"}),
        ("/detokenize", {"tokens": [5]}),
    ],
)
def test_client_that_leaves_cancels_what_waits(http, app, engine, observer, blocked, path, body):
    api = app.state.api
    kind = api.grammars if "response_format" in body else api.prompts
    engine.current.has_hidden_states = True
    http.post("/tokenize", json={"prompt": "Hi"})  # the encoder is there, which all share
    blocked(kind, 2)
    begun, counted = kind.num_begun, len(observer.requests)
    with pytest.raises(httpx.ReadTimeout):
        http.post(path, json=body, timeout=0.3)
    assert wait_until(lambda: len(observer.requests) > counted, 20)
    assert observer.requests[-1][2] == "client_abort"
    assert (kind._num_waiting, kind.num_begun) == (0, begun)
    assert engine.requests == []


def test_body_that_never_comes_ends_at_its_deadline(url):
    parts = urllib.parse.urlsplit(url)
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-length: 100\r\n"
        "x-request-timeout: 0.2\r\nconnection: close\r\n\r\n{"
    )
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        connection.sendall(head.encode())
        assert b" 504 " in connection.recv(4096).split(b"\r\n")[0]


def test_large_body_is_read_away_from_the_event_loop(http, monkeypatch):
    names = []
    parse = request_body.parse_body

    def spy(*args):
        names.append(threading.current_thread().name)
        return parse(*args)

    monkeypatch.setattr(request_body, "parse_body", spy)
    metadata = {f"key{number}": "x" * 500 for number in range(16)}
    large = BODY | {"metadata": metadata, "unknown": "x" * request_body._INLINE_BYTES}
    assert http.post(CHAT, json=large).status_code == 200
    assert http.post(CHAT, json=BODY).status_code == 200
    assert [name.startswith("prompts") for name in names] == [True, False]


def test_encoder_of_a_version_is_made_once_for_all_who_wait(http, monkeypatch):
    made = []

    def make(*args):
        made.append(args)
        return PromptEncoder(*args)

    monkeypatch.setattr(state, "PromptEncoder", make)
    with ThreadPoolExecutor(8) as clients:
        replies = list(clients.map(lambda _: http.post(CHAT, json=BODY), range(8)))
    assert {reply.status_code for reply in replies} == {200}
    assert len(made) == 1


def test_template_that_repeats_its_messages_is_refused_before_encoding(http, engine, built):
    from everloop.chat import ChatTemplate

    engine.current.chat_template = ChatTemplate("{{ messages[0].content * 999 }}")
    reply = http.post(
        CHAT, json={"model": "everloop", "messages": [QUESTION | {"content": "x" * 99}]}
    )
    assert reply.json()["error"]["code"] == "context_length_exceeded"
    assert engine.requests == []


def test_no_more_than_so_many_calls_wait(monkeypatch):
    monkeypatch.setattr(workers, "_MAX_WAITING", 2)

    async def main():
        pool, go = Workers("some", 1), threading.Event()
        calls = [asyncio.ensure_future(pool.run(None, go.wait, 60)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match="Too many requests wait for some"):
            await pool.run(None, go.wait, 60)
        calls[1].cancel()  # its client has left: it never begins
        await asyncio.gather(calls[1], return_exceptions=True)
        go.set()
        assert await calls[0]
        assert await pool.run(None, int, "7") == 7
        pool.close()
        return pool.num_begun

    assert asyncio.run(main()) == 2


def test_call_that_raises_a_timeout_of_its_own_is_no_deadline():
    async def main():
        pool = Workers("some", 1)
        try:
            await pool.run(time.monotonic() + 60, _raise, TimeoutError("its own"))
        finally:
            pool.close()

    with pytest.raises(TimeoutError, match="its own"):
        asyncio.run(main())


def _raise(error):
    raise error


def test_characters_are_counted_wherever_they_stand():
    value = {"ab": ["cde", {"f": "g"}, 1, None], "h": "ij"}
    assert context_limits.text_length(value) == 10
