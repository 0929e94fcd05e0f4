"""A repeated key gives the reply again, streams too; another body, a failure or time does not."""

import asyncio
import threading

import httpx
import pytest

from everloop.errors import EngineStoppedError
from serving.openai_api.config import ServerConfig
from serving.openai_api.errors import ApiError
from serving.openai_api.idempotency import _FIXED_BYTES as FIXED
from serving.openai_api.idempotency import Idempotency, ReplyCache
from serving.openai_api.observer import RequestFacts, attach_facts, facts_of
from tests.serving.fakes import wait_until

PATH = "/v1/chat/completions"
BODY = {"model": "everloop", "messages": [{"role": "user", "content": "Hi"}]}


def ask(http, key: str = "one", body: dict = BODY, **headers: str) -> httpx.Response:
    return http.post(PATH, json=body, headers={"idempotency-key": key} | headers)


@pytest.mark.parametrize("stream", [False, True])
def test_same_key_gives_the_same_reply_once(http, engine, recorder, stream):
    body = BODY | {"stream": stream}
    first, again = ask(http, body=body), ask(http, body=body)
    assert first.content == again.content
    assert first.headers["content-type"] == again.headers["content-type"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert len(engine.requests) == len(recorder.interactions) == 1


def test_replay_has_a_request_id_of_its_own(http):
    first = ask(http)
    again = ask(http, **{"x-request-id": "mine"})
    assert again.headers.get_list("x-request-id") == ["mine"]
    assert first.headers["x-request-id"] != "mine"


def test_feedback_is_kept_once(http, recorder):
    completion = http.post(PATH, json=BODY).json()["id"]
    body = {"inference_id": completion, "metric_name": "thumbs", "value": True}
    replies = [
        http.post("/v1/feedback", json=body, headers={"idempotency-key": "f"}).json()
        for _ in range(2)
    ]
    assert replies[0] == replies[1]
    assert len(recorder.feedback) == 1


def test_another_body_is_refused(http, engine):
    ask(http)
    reply = ask(http, body=BODY | {"seed": 1})
    assert reply.status_code == 422
    assert reply.json()["error"]["code"] == "idempotency_key_reused"
    assert len(engine.requests) == 1


def test_another_key_or_another_tenant_asks_anew(http, engine):
    ask(http)
    ask(http, "two")
    ask(http, authorization="Bearer somebody")
    assert len(engine.requests) == 3


def test_failure_is_not_kept(http, engine):
    engine.pieces = ["Hel", EngineStoppedError("stopped")]
    stream = BODY | {"stream": True}
    assert "engine_stopped" in ask(http, body=stream).text
    assert ask(http, "two").status_code == 503
    engine.pieces = ["Hello", "!"]
    assert ask(http, body=stream).text.endswith("[DONE]\n\n")
    assert ask(http, "two").status_code == 200


def test_key_of_a_failed_stream_is_free_before_its_client_hears_of_it():
    async def fail(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        facts_of(scope).status = "error"
        await send({"type": "http.response.body", "body": b"data: {}", "more_body": False})

    async def drive() -> list[int]:
        guard, kept = Idempotency(fail, 60, 1000), []

        async def receive() -> dict:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message) -> None:
            kept.append(len(guard._cache))

        scope = {"type": "http", "method": "POST", "path": PATH}
        scope["headers"] = [(b"idempotency-key", b"one")]
        attach_facts(scope, RequestFacts("r"))
        await guard(scope, receive, send)
        return kept

    assert asyncio.run(drive()) == [1, 0]


def test_same_key_at_work_is_a_conflict(http, engine):
    engine.pieces = ["Hel", None, "lo"]
    replies = []
    first = threading.Thread(target=lambda: replies.append(ask(http)))
    first.start()
    assert wait_until(lambda: engine.requests)
    second = ask(http)
    assert second.status_code == 409
    assert second.json()["error"]["code"] == "idempotency_key_in_use"
    assert second.headers["retry-after"] == "1"
    engine.release()
    first.join(60)
    assert replies[0].status_code == 200


def test_key_of_a_client_that_left_can_be_used_again(http, engine):
    engine.pieces = ["Hel", None]
    headers = {"idempotency-key": "one"}
    body = BODY | {"stream": True}
    with http.stream("POST", PATH, json=body, headers=headers) as response:
        next(response.iter_raw())
    assert wait_until(lambda: engine.aborted)
    engine.pieces = ["Hello", "!"]
    assert wait_until(lambda: ask(http, body=body).status_code == 200)


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_unusable_key_is_refused(http, key):
    reply = ask(http, key)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "Idempotency-Key"


def test_get_needs_no_key(http):
    assert http.get("/v1/models", headers={"idempotency-key": "x" * 999}).status_code == 200


class TestOff:
    @pytest.fixture
    def config(self) -> ServerConfig:
        return ServerConfig(idempotency_seconds=0)

    def test_switched_off_it_does_nothing(self, http, engine):
        ask(http)
        ask(http)
        assert len(engine.requests) == 2


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def messages(size: int) -> list[dict]:
    start = {"type": "http.response.start", "status": 200, "headers": []}
    return [start, {"type": "http.response.body", "body": b"x" * size, "more_body": False}]


def put(cache: ReplyCache, name: str, size: int = 10) -> None:
    assert cache.begin(("", name), b"") is None
    cache.end(("", name), messages(size))


def test_cache_forgets_after_its_time():
    clock = Clock()
    cache = ReplyCache(60, FIXED + 1000, clock)
    put(cache, "a")
    clock.now = 59
    assert cache.begin(("", "a"), b"") == messages(10)
    clock.now = 60
    assert cache.begin(("", "a"), b"") is None


def test_cache_drops_the_oldest_over_its_size():
    cache = ReplyCache(60, 2 * FIXED + 25, Clock())
    for name in "abc":
        put(cache, name)
    assert len(cache) == 2
    assert cache.begin(("", "c"), b"") is not None
    assert cache.begin(("", "a"), b"") is None


def test_cache_keeps_no_reply_that_is_larger_than_all():
    cache = ReplyCache(60, FIXED + 25, Clock())
    put(cache, "a", 26)
    assert len(cache) == 0


def test_cache_neither_expires_nor_drops_what_is_at_work():
    clock = Clock()
    cache = ReplyCache(60, FIXED + 15, clock)
    cache.begin(("", "slow"), b"")
    clock.now = 100
    put(cache, "a")
    put(cache, "b")
    with pytest.raises(ApiError, match="still at work"):
        cache.begin(("", "slow"), b"")


def test_cache_keeps_a_stream_as_one_piece():
    """Ten thousand pieces of one byte would take megabytes that nobody counts."""
    cache = ReplyCache(60, FIXED + 10_000, Clock())
    assert cache.begin(("", "a"), b"") is None
    pieces = [{"type": "http.response.body", "body": b"x", "more_body": True}] * 10_000
    cache.end(("", "a"), [messages(0)[0], *pieces])
    assert cache.begin(("", "a"), b"") == messages(10_000)
