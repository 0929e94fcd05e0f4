"""Every failure has its status, its type and code, and its class in the official client."""

import json

import openai
import pytest
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from everloop.errors import (
    ArtifactError,
    DataError,
    EngineStoppedError,
    NotFoundError,
    PromptTooLongError,
    QueueFullError,
    StoreError,
)
from serving.openai_api.errors import ApiError, describe

ASK = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("error", "status", "type_", "code", "retry_after"),
    [
        (QueueFullError("full", 2.1), 429, "rate_limit_error", "rate_limit_exceeded", "3"),
        (QueueFullError("full", 900), 429, "rate_limit_error", "rate_limit_exceeded", "120"),
        (QueueFullError("full", 0), 429, "rate_limit_error", "rate_limit_exceeded", "1"),
        (PromptTooLongError("x"), 400, "invalid_request_error", "context_length_exceeded", None),
        (EngineStoppedError("x"), 503, "server_error", "engine_stopped", "1"),
        (StoreError("x"), 503, "server_error", "store_unavailable", "1"),
        (NotFoundError("x"), 404, "invalid_request_error", "not_found", None),
        (DataError("x"), 400, "invalid_request_error", None, None),
        (HTTPException(404), 404, "invalid_request_error", None, None),
        (HTTPException(405), 405, "invalid_request_error", None, None),
        (ArtifactError("secret"), 500, "server_error", None, None),
        (RuntimeError("secret"), 500, "server_error", None, None),
    ],
)
def test_describe_maps(error, status, type_, code, retry_after):
    reply = describe(error)
    assert (reply.status, reply.type, reply.code) == (status, type_, code)
    assert reply.headers.get("retry-after") == retry_after
    assert "secret" not in reply.message


def test_body_has_all_four_keys():
    body = json.loads(describe(ApiError("no", param="n", code="c")).body())
    assert body == {
        "error": {"message": "no", "type": "invalid_request_error", "param": "n", "code": "c"}
    }


def test_validation_error_gives_the_path():
    class Inner(BaseModel):
        role: int

    class Outer(BaseModel):
        messages: list[Inner]

    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"messages": [{"role": 1}, {"role": "x"}]})
    assert describe(caught.value).param == "messages[1].role"


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (QueueFullError("the queue is full", 3), openai.RateLimitError),
        (EngineStoppedError("stopped"), openai.InternalServerError),
        (RuntimeError("boom"), openai.InternalServerError),
    ],
)
def test_engine_failure_reaches_the_client_as_its_class(client, engine, failure, kind):
    engine.pieces = [failure]
    for stream in (False, True):
        with pytest.raises(kind):
            client.chat.completions.create(model="everloop", messages=ASK, stream=stream)


def test_queue_full_says_when_to_come_back(client, engine):
    engine.pieces = [QueueFullError("the queue is full", 3)]
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="everloop", messages=ASK)
    assert caught.value.response.headers["retry-after"] == "3"
    assert caught.value.code == "rate_limit_exceeded"


def test_official_client_comes_back_when_it_was_told_to(client, engine, monkeypatch):
    waits, answer = [], engine.pieces

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        engine.pieces = answer

    engine.pieces = [QueueFullError("the queue is full", 3)]
    monkeypatch.setattr("openai._base_client.time.sleep", sleep)
    patient = client.with_options(max_retries=1)
    reply = patient.chat.completions.create(model="everloop", messages=ASK)
    assert reply.choices[0].message.content == "Hello!"
    assert waits == [3.0]


def test_official_client_does_not_repeat_what_took_too_long(client, engine):
    engine.finish_reason, engine.pieces = "timeout", [""]
    patient = client.with_options(max_retries=2)
    with pytest.raises(openai.InternalServerError) as caught:
        patient.chat.completions.create(model="everloop", messages=ASK)
    assert caught.value.status_code == 504
    assert len(engine.requests) == 1


def test_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-9", messages=ASK)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


def test_loading_model_is_unavailable(client, engine):
    engine.current = None
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="everloop", messages=ASK)
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"] == "2"


def test_draining_server_is_unavailable(client, app):
    app.state.api.is_draining = True
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="everloop", messages=ASK)
    assert caught.value.code == "shutting_down"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/feedback", 405),
    ],
)
def test_routing_failure_has_the_error_form(http, method, path, status):
    reply = http.request(method, path)
    assert reply.status_code == status
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert ("allow" in reply.headers) == (status == 405)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/moderations", "'/v1/moderations' on this server. Moderation is not part"),
        ("/v1/threads/x", "Use /v1/chat/completions with the whole conversation."),
        ("/v1/unknown", "The routes are in /openapi.json."),
        ("/v1/a%0Ab", r"'/v1/a\nb'"),
        ("/v1/models%0A", r"'/v1/models\n'"),
        ("/v1/chat/completions%0A", r"'/v1/chat/completions\n'"),
        ("/livez%0A", r"'/livez\n'"),
        ("/v1/" + "x" * 900, "xxx...'"),
    ],
)
def test_route_that_is_not_there_is_named(http, path, words):
    reply = http.post(path, json={})
    assert reply.status_code == 404
    error = reply.json()["error"]
    assert words in error["message"]
    assert len(error["message"]) < 300
    assert error["code"] == "unknown_url"


def test_allow_names_every_method_of_a_route(http):
    reply = http.put("/v1/feedback", json={})
    assert reply.status_code == 405
    assert {"GET", "POST"} <= set(reply.headers["allow"].split(", "))
