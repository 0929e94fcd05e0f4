"""What clients read while the server stops: whoever comes, and whoever is still at work."""

import asyncio
import json
import threading

import httpx
import openai
import pytest

from tests.serving.fakes import wait_until

BODY = {"model": "everloop", "messages": [{"role": "user", "content": "Hi"}]}
CHAT = "/v1/chat/completions"


def on_loop(engine, coroutine):
    """Run something on the server's event loop, and wait for it."""
    return asyncio.run_coroutine_threadsafe(coroutine, engine.loop).result(60)


@pytest.fixture
def ask_in_thread(url, engine):
    """Start a request that waits for the engine's gate; gives its reply when it has come."""
    replies: list[httpx.Response] = []
    threads: list[threading.Thread] = []

    def ask(path: str, body: dict) -> threading.Thread:
        def read() -> None:
            with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
                replies.append(http.post(path, json=body))

        before = len(engine.requests)
        threads.append(threading.Thread(target=read))
        threads[-1].start()
        assert wait_until(lambda: len(engine.requests) > before)
        return threads[-1]

    ask.replies = replies
    yield ask
    for thread in threads:
        thread.join(60)


def shutting_down(error: dict) -> bool:
    return (error["type"], error["code"]) == ("server_error", "shutting_down")


def test_stream_that_outlasts_the_grace_gets_an_error_and_its_done(
    app, engine, recorder, observer, ask_in_thread
):
    engine.pieces = ["Hel", None, "lo"]
    thread = ask_in_thread(CHAT, BODY | {"stream": True})
    assert wait_until(lambda: app.state.api.at_work)
    on_loop(engine, app.state.api.end_answers())
    thread.join(60)
    (reply,) = ask_in_thread.replies
    assert reply.status_code == 200
    *_, error, done, rest = reply.text.split("\n\n")
    assert shutting_down(json.loads(error.removeprefix("data: "))["error"])
    assert (done, rest) == ("data: [DONE]", "")
    assert [row.finish_reason for row in recorder.interactions] == ["error"]
    assert wait_until(lambda: observer.requests)
    assert observer.requests == [("chat", engine.current.tag, "error", True)]
    assert wait_until(lambda: engine.aborted)


def test_stream_without_its_first_token_gets_a_status_of_its_own(app, engine, ask_in_thread):
    engine.pieces = [None, "late"]
    thread = ask_in_thread(CHAT, BODY | {"stream": True})
    on_loop(engine, app.state.api.end_answers())
    thread.join(60)
    (reply,) = ask_in_thread.replies
    assert reply.status_code == 503
    assert shutting_down(reply.json()["error"])


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_whole_request_that_outlasts_the_grace_is_503(app, engine, observer, ask_in_thread, path):
    engine.pieces = ["Hel", None, "lo"]
    body = BODY if path == CHAT else {"model": "everloop", "prompt": "Hi"}
    thread = ask_in_thread(path, body)
    on_loop(engine, app.state.api.end_answers())
    thread.join(60)
    (reply,) = ask_in_thread.replies
    assert reply.status_code == 503
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["retry-after"] == "5"
    assert shutting_down(reply.json()["error"])
    assert wait_until(lambda: observer.requests)
    assert observer.requests[0][2] == "error"


def test_requests_that_come_while_the_server_drains_are_refused_before_their_body(app, http):
    app.state.api.is_draining = True
    for path in (CHAT, "/v1/embeddings", "/v1/feedback", "/tokenize"):
        reply = http.post(path, content=b"no JSON")
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "shutting_down")
        assert reply.headers["connection"] == "close"
    assert http.get("/livez").status_code == 200
    assert http.get("/readyz").status_code == 503
    assert http.get("/metrics").status_code == 200


def test_official_client_reads_why_it_was_refused(app, client):
    app.state.api.is_draining = True
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(**BODY)
    assert caught.value.code == "shutting_down"


def test_answer_that_finishes_within_the_grace_is_whole(app, engine, ask_in_thread):
    engine.pieces = ["Hel", None, "lo"]
    thread = ask_in_thread(CHAT, BODY | {"stream": True})
    app.state.api.is_draining = True
    engine.release()
    assert on_loop(engine, app.state.api.wait_until_idle(60))
    on_loop(engine, app.state.api.end_answers())
    thread.join(60)
    (reply,) = ask_in_thread.replies
    assert "shutting_down" not in reply.text
    assert reply.text.endswith("data: [DONE]\n\n")
