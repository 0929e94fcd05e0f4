"""Request ids, the count of requests, the catch-all and the body limit."""

import random
import string

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.routing import Route

from monitoring.metrics import Metrics
from serving.openai_api.app import create_app
from serving.openai_api.config import ServerConfig
from tests.serving.fakes import TAG, live_server, wait_until

ASK = {"model": "everloop", "messages": [{"role": "user", "content": "Hi"}]}


async def explode(_request) -> None:
    raise RuntimeError("secret")


@pytest.fixture
def config() -> ServerConfig:
    return ServerConfig(max_body_bytes=2000)


def test_request_id_of_the_client_comes_back(http):
    reply = http.get("/v1/models", headers={"x-request-id": "mine-1"})
    assert reply.headers["x-request-id"] == "mine-1"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129])
def test_request_id_that_is_unusable_is_replaced(http, given):
    reply = http.get("/v1/models", headers={"x-request-id": given})
    assert reply.headers["x-request-id"].startswith("req-")


def test_request_id_reaches_the_official_client(client):
    answer = client.chat.completions.create(**ASK)
    assert answer._request_id.startswith("req-")


@pytest.mark.parametrize("path", ["/nowhere", "/v1/chat/completions"])
def test_request_id_is_on_errors_too(http, path):
    assert "x-request-id" in http.get(path).headers


def test_counter_names_route_model_status_and_stream(http, observer):
    http.post("/v1/chat/completions", json=ASK)
    http.post("/v1/completions", json={"model": TAG, "prompt": "x", "stream": True})
    http.post("/v1/chat/completions", json=ASK | {"n": 129})
    http.get("/v1/models/nobody")
    http.get("/somewhere")
    # A request is counted after its last byte was sent, so the next one can be counted first.
    assert wait_until(lambda: len(observer.requests) >= 5)
    assert sorted(observer.requests) == [
        ("chat", "", "rejected", False),
        ("chat", TAG, "ok", False),
        ("completions", TAG, "ok", True),
        ("models", "", "rejected", False),
        ("other", "", "rejected", False),
    ]


def test_counter_leaves_probes_out(http, observer):
    for path in ("/livez", "/readyz", "/healthz", "/metrics", "/openapi.json", "/"):
        assert http.get(path).status_code == 200
    http.get("/v1/models")
    assert wait_until(lambda: observer.requests)
    assert [request[0] for request in observer.requests] == ["models"]


def test_random_paths_make_no_series(engine, recorder):
    metrics = Metrics(CollectorRegistry())
    app = create_app(engine, recorder, metrics, metrics.render, ServerConfig())
    random_text = random.Random(1)
    with live_server(app) as url, httpx.Client(base_url=url, trust_env=False) as http:
        http.get("/first")
        before = series(http)
        for number in range(200):
            path = "".join(random_text.choices(string.ascii_letters, k=12))
            method = "POST" if number % 2 else "GET"
            assert http.request(method, f"/v1/{path}").status_code == 404
        assert series(http) == before


def series(http) -> set[str]:
    lines = http.get("/metrics").text.splitlines()
    return {line.rpartition(" ")[0] for line in lines if line and not line.startswith("#")}


def test_raising_handler_answers_json_within_the_app(app, http, observer):
    app.router.routes.append(Route("/explode", explode, name="models"))
    reply = http.get("/explode")
    assert reply.status_code == 500
    assert reply.json()["error"]["type"] == "server_error"
    assert "secret" not in reply.text
    assert "x-request-id" in reply.headers
    assert wait_until(lambda: observer.requests)
    assert observer.requests == [("models", "", "error", False)]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/feedback"])
def test_body_over_the_limit_is_refused(http, path):
    reply = http.post(path, content=b" " * 2001)
    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == "body_too_large"


def test_body_of_unannounced_size_is_limited(http):
    reply = http.post("/v1/chat/completions", content=iter([b" " * 1500, b" " * 1500]))
    assert reply.status_code == 413


def test_body_at_the_limit_is_read(http):
    reply = http.post("/v1/chat/completions", content=b" " * 2000)
    assert reply.json()["error"]["code"] == "invalid_json"
