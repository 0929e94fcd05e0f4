"""The parts of benchmarks.hostile; the command itself is run in test_commands.py."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from benchmarks.hostile import Sent, largest_gap, row_of
from benchmarks.hostile_client import send
from benchmarks.hostile_inputs import COMPLETIONS, HostileInput, corpus
from benchmarks.stream_watch import READY, Watched
from tests.serving.fakes import live_server

ROOT = Path(__file__).parents[2]


class ScriptedApi:
    """Answers by what a body asks for; the second stream of a prompt breaks off."""

    def __init__(self) -> None:
        self.prompts: list[list[int]] = []

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        if body.get("wait"):
            await request.receive()  # until the client has left
        if not body.get("stream"):
            error = {"message": "m" * 200, "param": body.get("param"), "code": body.get("code")}
            return JSONResponse({"error": error}, 400)
        self.prompts.append(body["prompt"])
        return StreamingResponse(self._events(self.prompts.count(body["prompt"]) == 2))

    async def _events(self, is_broken: bool) -> AsyncIterator[str]:
        for _ in range(20):
            yield 'data: {"choices": [{"text": "a", "finish_reason": null}]}\n\n'
            await asyncio.sleep(0)
        if is_broken:
            yield 'data: {"error": {"code": "engine_stopped"}}\n\n'
        yield "data: [DONE]\n\n"


@pytest.fixture
def url() -> Iterator[str]:
    app = Starlette(routes=[Route(COMPLETIONS, ScriptedApi().complete, methods=["POST"])])
    with live_server(app) as address:
        yield address


def ask(url: str, *bodies: dict[str, object], leaves_after: float | None = None) -> str:
    sent = [json.dumps(body).encode() for body in bodies]
    one = HostileInput(name="x", path=COMPLETIONS, bodies=sent, leaves_after=leaves_after)
    return asyncio.run(send(url, one, 20.0))


def test_answers_are_told_by_their_code_or_reason(url: str) -> None:
    assert ask(url, {"code": "too_long"}, {"code": "too_long"}) == "2 times 400 too_long"
    assert ask(url, {"param": "stop"}) == "400 stop"
    assert ask(url, {}) == f"400 {'m' * 90}…"
    assert ask(url, {"stream": True, "prompt": [1]}) == "200"
    assert ask(url, {"wait": True}, leaves_after=0.1) == "left"


def test_server_that_is_not_there_is_told() -> None:
    assert ask("http://127.0.0.1:9") == ""
    assert ask("http://127.0.0.1:9", {}) == "ConnectionRefusedError"


def test_streams_are_watched_until_stdin_ends(url: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.stream_watch", url, "m", "2", "20", "60"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == READY
    written, _ = process.communicate(timeout=30)
    watched = [Watched(**fields) for fields in json.loads(written)]
    assert len(watched) >= 2
    assert {one.fault for one in watched[:2]} == {None}
    assert {one.fault for one in watched[2:4]} <= {"broken off", None}
    assert all(one.times == sorted(one.times) for one in watched)


def test_gap_is_the_largest_that_overlaps() -> None:
    watched = [Watched([0.0, 5.0, 6.0, 9.0]), Watched([5.5, 6.5, 20.0])]
    assert largest_gap(watched, sent(5.2, 6.6)) == 13.5
    assert largest_gap(watched[:1], sent(5.2, 5.9)) == 1.0
    assert largest_gap([], sent(1.0, 4.0)) == 3.0


def test_row_says_which_bound_is_missed() -> None:
    watched = [Watched([0.0, 1.0, 2.0]), Watched([0.0, 1.0, 2.0], "broken off")]
    assert (
        row_of(sent(1.5, 3.0), watched, 1.0).ended,
        row_of(sent(0.1, 1.9), watched, 1.0).ended,
    ) == (1, 0)
    assert row_of(sent(0.1, 1.9), watched, 1.0).ok
    assert not row_of(sent(0.1, 1.9), watched, 0.5).ok
    assert not row_of(sent(0.1, 1.9, kept=201.0), watched, 1.0).ok
    assert not row_of(sent(1.5, 3.0), watched, 1.0).ok


def sent(began: float, ended: float, kept: float = 0.0) -> Sent:
    return Sent(HostileInput(name="x", path="/"), "200", began, ended, kept)


def test_corpus_names_its_inputs_and_is_bounded() -> None:
    inputs = corpus("m", 2048)
    names = [one.name for one in inputs]
    assert len(set(names)) == len(names) > 100
    assert max(len(body) for one in inputs for body in one.bodies) < 6 * 2**20
    assert max(len(one.bodies) for one in inputs) <= 200
