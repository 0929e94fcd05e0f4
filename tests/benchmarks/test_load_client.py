import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from benchmarks.load_client import send
from benchmarks.traffic import Request
from tests.serving.fakes import live_server

TIMEOUT = 20.0


class ScriptedApi:
    """Streams as many words as asked for, or what a test sets; notes who was there at once."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, object]] = []
        self.active = 0
        self.most_active = 0
        self.status = 200
        self.missing_words = 0
        self.error: str | None = None

    async def complete(self, request: HttpRequest) -> Response:
        body = await request.json()
        self.bodies.append(body)
        if self.status != 200:
            return PlainTextResponse("too many", self.status)
        return StreamingResponse(self._events(int(body["max_tokens"])))

    async def _events(self, tokens: int) -> AsyncIterator[str]:
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        for number in range(tokens - self.missing_words):
            yield _event({"choices": [{"text": f"w{number} data: x"}]})
            await asyncio.sleep(0)
        if self.error:
            yield _event({"error": {"message": self.error}})
        yield _event({"choices": [{"text": ""}]})
        yield _event({"choices": [], "usage": {"completion_tokens": tokens}})
        yield "data: [DONE]\n\n"
        self.active -= 1


def _event(content: dict[str, object]) -> str:
    return f"data: {json.dumps(content)}\n\n"


@pytest.fixture
def api() -> ScriptedApi:
    return ScriptedApi()


@pytest.fixture
def url(api: ScriptedApi) -> Iterator[str]:
    app = Starlette(routes=[Route("/v1/completions", api.complete, methods=["POST"])])
    with live_server(app) as address:
        yield address


def requests(*tokens: int, arrival: float = 0.0) -> list[Request]:
    return [Request(arrival, [5, 6, 7], count) for count in tokens]


def test_every_token_has_its_time(url: str, api: ScriptedApi) -> None:
    timelines = asyncio.run(send(url, "m", requests(4, 30, 2), 2, TIMEOUT))
    assert [(line.tokens, len(line.token_times)) for line in timelines] == [
        (4, 4),
        (30, 30),
        (2, 2),
    ]
    assert all(line.sent < line.token_times[0] for line in timelines)
    assert timelines[1].token_times == sorted(timelines[1].token_times)
    assert api.bodies[0] == {
        "model": "m",
        "prompt": [5, 6, 7],
        "max_tokens": 4,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_no_more_requests_are_open_than_there_are_clients(url: str, api: ScriptedApi) -> None:
    asyncio.run(send(url, "m", requests(*[20] * 9), 3, TIMEOUT))
    assert api.most_active == 3


def test_a_request_is_not_sent_before_it_arrives(url: str) -> None:
    (line,) = asyncio.run(send(url, "m", requests(1, arrival=0.2), 1, TIMEOUT))
    assert line.sent >= 0.2


def test_a_request_waits_until_those_before_it_have_their_tokens(url: str) -> None:
    late = Request(0.0, [5], 1, after_tokens=20)
    *streams, last = asyncio.run(send(url, "m", [*requests(40, 40), late], 3, TIMEOUT))
    assert last.sent >= max(line.token_times[19] for line in streams)


def test_a_refusal_ends_the_run(url: str, api: ScriptedApi) -> None:
    api.status = 429
    with pytest.raises(RuntimeError, match="HTTP 429: too many"):
        asyncio.run(send(url, "m", requests(1), 1, TIMEOUT))


def test_an_answer_with_too_few_events_ends_the_run(url: str, api: ScriptedApi) -> None:
    api.missing_words = 3
    with pytest.raises(RuntimeError, match="asked for 20 tokens, got 17 events"):
        asyncio.run(send(url, "m", requests(20), 1, TIMEOUT))


def test_an_error_in_the_stream_ends_the_run(url: str, api: ScriptedApi) -> None:
    api.error = "gone"
    with pytest.raises(RuntimeError, match=r"the stream broke off: .*gone"):
        asyncio.run(send(url, "m", requests(2), 1, TIMEOUT))
