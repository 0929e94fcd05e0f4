"""Programs and the server's own page pass; pages of other sites and rebound names do not."""

import pytest

from serving.openai_api.config import ServerConfig

FEEDBACK = {"inference_id": "a", "metric_name": "thumbs", "value": True}


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "localhost:3000", "127.0.0.1:3000", "[::1]:3000", "10.0.0.7:3000", "everloop",
        "everloop:3000", "x.localhost:3000", "LOCALHOST",
    ],
)  # fmt: skip
def test_host_of_this_network_passes(http, host):
    assert http.get("/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example.org", "evil.example.org:3000", "127.0.0.1.nip.io"])
@pytest.mark.parametrize("path", ["/", "/v1/models", "/metrics", "/openapi.json"])
def test_name_of_the_internet_is_refused(http, host, path):
    reply = http.get(path, headers={"host": host})
    assert reply.status_code == 403
    assert reply.json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example.org",
        "null",
        "http://localhost:9999",
        "http://127.0.0.1",
        "",
        "x" * 500,
    ],
)
def test_page_of_another_origin_is_refused(http, recorder, origin):
    headers = {"host": "localhost:3000", "origin": origin}
    reply = http.post("/v1/feedback", json=FEEDBACK, headers=headers)
    assert reply.status_code == 403
    assert reply.json()["error"]["code"] == "origin_not_allowed"
    assert recorder.feedback == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_own_page_passes(http, scheme):
    headers = {"host": "localhost:3000", "origin": f"{scheme}://localhost:3000"}
    assert http.post("/v1/feedback", json=FEEDBACK, headers=headers).status_code == 404


def test_preflight_of_another_page_is_refused(http):
    headers = {"origin": "https://evil.example.org", "access-control-request-method": "POST"}
    assert http.options("/v1/feedback", headers=headers).status_code == 403


class TestAllowed:
    @pytest.fixture
    def config(self) -> ServerConfig:
        return ServerConfig(
            allowed_hosts=["llm.example.org"], allowed_origins=["https://chat.example.org"]
        )

    def test_listed_host_passes(self, http):
        headers = {"host": "LLM.example.org"}
        assert http.get("/v1/models", headers=headers).status_code == 200

    def test_listed_page_passes_and_may_read(self, http):
        headers = {"origin": "https://chat.example.org"}
        reply = http.get("/v1/models", headers=headers)
        assert reply.status_code == 200
        assert reply.headers["access-control-allow-origin"] == "https://chat.example.org"

    def test_listed_page_may_ask_before(self, http):
        headers = {
            "origin": "https://chat.example.org",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        }
        reply = http.options("/v1/chat/completions", headers=headers)
        assert reply.status_code == 200
        assert "POST" in reply.headers["access-control-allow-methods"]

    def test_other_page_is_still_refused(self, http):
        headers = {"origin": "https://evil.example.org"}
        assert http.get("/v1/models", headers=headers).status_code == 403
