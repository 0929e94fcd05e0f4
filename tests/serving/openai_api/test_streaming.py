"""Records come before last bytes; a stream tells its failures; clients that leave end the work."""

import asyncio
import json
import re
import threading
import time

import openai
import pytest
from starlette.requests import ClientDisconnect

from everloop.errors import EngineStoppedError, StoreError
from serving.openai_api.config import ServerConfig
from serving.openai_api.disconnect import unless_disconnected
from tests.serving.fakes import leave_when, wait_until

ASK = [{"role": "user", "content": "Hi"}]
BODY = {"model": "everloop", "messages": ASK}
PATH = "/v1/chat/completions"


def events(http, **fields) -> list[str]:
    text = http.post(PATH, json=BODY | {"stream": True} | fields).text
    assert text.endswith("\n\n")
    return [block.removeprefix("data: ") for block in text.split("\n\n")[:-1]]


def leave_in_the_middle(http, engine, **fields) -> None:
    """Read what comes before the gate, then close the connection."""
    with http.stream("POST", PATH, json=BODY | {"stream": True} | fields) as response:
        next(response.iter_raw())
    assert wait_until(lambda: engine.aborted)


def leave_while_waiting(url, engine, **fields) -> None:
    """Ask, and hang up once the engine is at work, without having read anything."""
    leave_when(lambda: engine.requests, url + PATH, BODY | fields)
    assert wait_until(lambda: engine.aborted)


def outcome(observer) -> tuple[str, bool]:
    """How the first request ended, and whether it streamed: told after the last byte."""
    assert wait_until(lambda: observer.requests)
    return observer.requests[0][2:]


# Records.


@pytest.mark.parametrize("stream", [False, True])
def test_answer_is_recorded_when_its_last_byte_arrives(http, recorder, stream):
    http.post(PATH, json=BODY | {"stream": stream, "seed": 5, "temperature": 0.5})
    (kept,) = recorder.interactions
    assert kept.answer == "Hello!"
    assert kept.finish_reason == "stop"
    assert kept.route == "chat"
    assert (kept.completion_tokens, kept.seed, kept.temperature) == (4, 5, 0.5)
    assert 0 <= kept.queue_seconds <= kept.ttft_seconds <= kept.e2e_seconds


@pytest.mark.parametrize("stream", [False, True])
def test_no_last_byte_before_the_record(http, recorder, app, stream):
    """While the store is busy, the client has everything but the end."""
    inside, finish = threading.Event(), threading.Event()
    keep = recorder.record

    async def slow(interaction) -> None:
        inside.set()
        await asyncio.to_thread(finish.wait, 60)
        await keep(interaction)

    recorder.record = slow
    received = []

    def ask() -> None:
        with http.stream("POST", PATH, json=BODY | {"stream": stream}) as response:
            received.extend(response.iter_raw())

    client = threading.Thread(target=ask)
    client.start()
    assert inside.wait(60)
    if stream:
        assert wait_until(lambda: b'"finish_reason":"stop"' in b"".join(received))
    assert b"[DONE]" not in b"".join(received)
    assert stream or received == []
    finish.set()
    client.join(60)
    end = b"data: [DONE]\n\n" if stream else b"}"
    assert b"".join(received).endswith(end)


def test_metadata_and_conversation_are_recorded(http, recorder):
    http.post(PATH, json=BODY | {"metadata": {"conversation_id": "c1", "topic": "t"}})
    (kept,) = recorder.interactions
    assert kept.conversation_id == "c1"
    assert kept.metadata == {"conversation_id": "c1", "topic": "t"}


def test_store_false_keeps_no_text(http, recorder):
    secret = {"conversation_id": "c1", "note": "secret"}
    http.post(PATH, json=BODY | {"store": False, "metadata": secret})
    (kept,) = recorder.interactions
    assert (kept.messages, kept.answer, kept.metadata) == ((), None, {})
    assert (kept.conversation_id, kept.completion_tokens) == ("c1", 4)


@pytest.mark.parametrize("store", [True, None])
def test_store_otherwise_keeps_the_text(http, recorder, store):
    http.post(PATH, json=BODY | {"store": store})
    assert recorder.interactions[0].answer == "Hello!"


def test_refused_request_is_not_recorded(http, recorder):
    http.post(PATH, json=BODY | {"max_tokens": 5000})
    http.post(PATH, json=BODY | {"functions": [{"name": "f"}]})
    assert recorder.interactions == []


# Failures.


def test_record_failure_without_stream_is_unavailable(client, recorder, observer):
    recorder.failure = StoreError("the store is away")
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="everloop", messages=ASK)
    assert caught.value.status_code == 503
    assert caught.value.code == "store_unavailable"
    assert observer.dropped == 1
    assert wait_until(lambda: observer.requests)
    assert observer.requests == [("chat", "everloop:v20261124101500-abc123", "error", False)]


def test_record_failure_in_a_stream_is_an_error_and_no_done(http, recorder, observer):
    recorder.failure = StoreError("the store is away")
    *_, last = events(http)
    assert json.loads(last)["error"]["code"] == "store_unavailable"
    assert outcome(observer) == ("error", True)
    assert observer.dropped == 1


@pytest.mark.parametrize("failure", [EngineStoppedError("the engine stopped"), RuntimeError("x")])
def test_failure_in_a_stream_raises_in_the_official_client(client, engine, failure):
    engine.pieces = ["Hel", failure]
    with pytest.raises(openai.APIError):
        for _ in client.chat.completions.create(model="everloop", messages=ASK, stream=True):
            pass


def test_failure_in_a_stream_is_recorded_with_what_was_said(http, engine, recorder, observer):
    engine.pieces = ["Hel", EngineStoppedError("the engine stopped")]
    *_, last = events(http)
    assert json.loads(last)["error"]["message"] == "the engine stopped"
    assert (recorder.interactions[0].finish_reason, recorder.interactions[0].answer) == (
        "error", "Hel",
    )  # fmt: skip
    assert outcome(observer)[0] == "error"


def test_failure_of_our_own_says_nothing_of_its_inside(http, engine):
    engine.pieces = ["Hel", RuntimeError("secret")]
    assert "secret" not in events(http)[-1]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reason", ["abort", "error"])
def test_answer_that_the_engine_gave_up_is_unavailable(http, engine, recorder, stream, reason):
    engine.finish_reason = reason
    engine.pieces = [""]
    reply = http.post(PATH, json=BODY | {"stream": stream})
    assert reply.status_code == 503
    assert recorder.interactions[0].finish_reason == "error"


def test_engine_that_ends_without_a_reason_is_an_error(http, engine):
    engine.pieces = []
    assert http.post(PATH, json=BODY).status_code == 503
    assert http.post(PATH, json=BODY | {"stream": True}).status_code == 503


class TestTimeout:
    @pytest.fixture
    def config(self) -> ServerConfig:
        return ServerConfig(first_token_timeout_seconds=0.05)

    @pytest.mark.parametrize("stream", [False, True])
    def test_no_token_in_time_is_a_timeout(self, http, engine, recorder, observer, stream):
        engine.pieces = [None, "late"]
        reply = http.post(PATH, json=BODY | {"stream": stream})
        assert reply.status_code == 503
        assert reply.json()["error"]["code"] == "timeout"
        assert "retry-after" in reply.headers
        assert len(engine.aborted) == 1
        assert outcome(observer) == ("timeout", stream)


class TestSlowFirstToken:
    @pytest.fixture
    def config(self) -> ServerConfig:
        return ServerConfig(keep_alive_seconds=0.05)

    def ask(self, http, engine, received: list[bytes]) -> None:
        body = BODY | {"stream": True}
        with http.stream("POST", PATH, json=body) as response:
            for part in response.iter_raw():
                received.append(part)
                if b"".join(received).count(b": keep-alive") >= 2:
                    engine.release()

    def test_comments_keep_the_connection_open(self, http, engine):
        engine.pieces = [None, "Hel", "lo"]
        received = []
        self.ask(http, engine, received)
        text = b"".join(received).decode()
        assert re.match(r"(: keep-alive\n\n){2,}data: ", text)
        assert text.endswith("data: [DONE]\n\n")

    def test_official_client_reads_past_them(self, client, engine):
        engine.pieces = [None, "Hel", "lo"]
        threading.Timer(0.15, lambda: wait_until(lambda: engine.loop) and engine.release()).start()
        with client.chat.completions.create(model="everloop", messages=ASK, stream=True) as chunks:
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello"

    def test_failure_after_them_is_an_error_event(self, http, engine, recorder):
        engine.pieces = [None, EngineStoppedError("the engine stopped")]
        received = []
        self.ask(http, engine, received)
        last = b"".join(received).decode().rstrip().split("\n\n")[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_stopped"
        assert recorder.interactions[0].finish_reason == "error"

    def test_leaving_during_them_ends_the_generation(self, http, engine, recorder):
        engine.pieces = [None, "late"]
        leave_in_the_middle(http, engine)
        assert wait_until(lambda: recorder.interactions)
        assert recorder.interactions[0].finish_reason == "abort"


# Deadlines.


def test_deadline_is_the_servers_or_the_clients_the_earlier(http, engine):
    for headers, seconds in (
        ({}, 600),
        ({"x-request-timeout": "2.5"}, 2.5),
        ({"x-request-timeout": "90000"}, 600),
    ):
        start = time.monotonic()
        http.post(PATH, json=BODY, headers=headers)
        assert start + seconds <= engine.deadlines[-1] <= time.monotonic() + seconds


@pytest.mark.parametrize("value", ["", "soon", "0", "-1", "nan", "inf", "1e999"])
def test_timeout_that_is_no_time_is_refused(http, value):
    reply = http.post(PATH, json=BODY, headers={"x-request-timeout": value})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "x-request-timeout"


@pytest.mark.parametrize("stream", [False, True])
def test_request_over_its_time_is_a_timeout(http, engine, recorder, observer, stream):
    engine.finish_reason = "timeout"
    engine.pieces = [""]
    reply = http.post(PATH, json=BODY | {"stream": stream})
    assert reply.status_code == 504
    assert reply.json()["error"]["code"] == "timeout"
    assert reply.headers["x-should-retry"] == "false"
    assert recorder.interactions[0].finish_reason == "timeout"
    assert outcome(observer) == ("timeout", stream)


def test_stream_over_its_time_ends_with_an_error(http, engine, recorder, observer):
    engine.finish_reason = "timeout"
    engine.pieces = ["Hel", ""]
    *_, last = events(http)
    assert json.loads(last)["error"]["code"] == "timeout"
    assert (recorder.interactions[0].finish_reason, recorder.interactions[0].answer) == (
        "timeout", "Hel",
    )  # fmt: skip
    assert outcome(observer) == ("timeout", True)


# Who asks.


def test_tenant_is_a_pseudonym_of_the_key(http, engine, caplog):
    for headers in ({}, {"authorization": "Bearer key-1"}, {"authorization": "bearer  key-1"}):
        http.post(PATH, json=BODY, headers=headers)
    http.post(PATH, json=BODY, headers={"authorization": "Bearer key-2"})
    http.post(PATH, json=BODY, headers={"authorization": "Basic key-1"})
    nobody, one, same, other, basic = engine.tenants
    assert nobody == basic == ""
    assert one == same != other
    assert len(one) == 16
    assert "key-1" not in one
    assert one not in caplog.text


# Clients that leave.


def test_leaving_a_stream_ends_the_generation(http, engine, recorder, observer):
    engine.pieces = ["Hel", None, "lo"]
    leave_in_the_middle(http, engine)
    assert len(engine.aborted) == 1
    assert wait_until(lambda: observer.requests)
    (kept,) = recorder.interactions
    assert (kept.id, kept.finish_reason, kept.answer) == (engine.aborted[0], "abort", "Hel")
    assert kept.completion_tokens == 1
    assert outcome(observer) == ("client_abort", True)


def test_leaving_before_the_first_token_ends_the_generation(url, engine, recorder):
    engine.pieces = [None, "late"]
    leave_while_waiting(url, engine, stream=True)
    assert wait_until(lambda: recorder.interactions)
    assert recorder.interactions[0].ttft_seconds is None
    assert len(engine.aborted) == 1


def test_leaving_without_stream_ends_the_generation(url, engine, recorder, observer):
    engine.pieces = ["Hel", None, "lo"]
    leave_while_waiting(url, engine)
    assert wait_until(lambda: observer.requests)
    assert recorder.interactions[0].finish_reason == "abort"
    assert outcome(observer) == ("client_abort", False)


def test_leaving_is_answered_499(app, engine):
    """As the app sends it; the client that left never sees it."""

    async def drive() -> list[dict]:
        sent, received = [], asyncio.Queue()
        received.put_nowait({"type": "http.request", "body": json.dumps(BODY).encode()})

        async def send(message) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": PATH, "query_string": b"", "headers": [],
        }  # fmt: skip
        task = asyncio.create_task(app(scope, received.get, send))
        while not engine.requests:
            await asyncio.sleep(0)
        received.put_nowait({"type": "http.disconnect"})
        await task
        return sent

    engine.pieces = ["Hel", None]
    sent = asyncio.run(drive())
    assert sent[0]["status"] == 499


def test_leaving_clients_record_failure_is_counted(http, engine, recorder, observer):
    recorder.failure = StoreError("the store is away")
    engine.pieces = ["Hel", None]
    leave_in_the_middle(http, engine)
    assert wait_until(lambda: observer.dropped == 1)


def test_nobody_is_at_work_after_all_this(http, app, engine):
    engine.pieces = ["Hel", None]
    leave_in_the_middle(http, engine)
    assert wait_until(lambda: app.state.api.num_active == 0)


def test_unless_disconnected_cancels_the_work():
    async def drive() -> bool:
        is_cancelled = False

        async def work() -> None:
            nonlocal is_cancelled
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                is_cancelled = True
                raise

        async def receive() -> dict:
            return {"type": "http.disconnect"}

        with pytest.raises(ClientDisconnect):
            await unless_disconnected(receive, work())
        return is_cancelled

    assert asyncio.run(drive())


def test_unless_disconnected_raises_what_the_work_raises():
    async def work() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        asyncio.run(unless_disconnected(asyncio.Event().wait, work()))
