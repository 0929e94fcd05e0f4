"""A conversation in the terminal with the API over a scripted engine."""

import io
from collections.abc import Iterator

import openai
import pytest
from rich.console import Console

from everloop.errors import EverloopError
from everloop.sampling_defaults import IMPORTED, TRAINED
from everloop.terminal_chat import ChatOptions, Talk, chat
from serving.openai_api.app import create_app
from serving.openai_api.config import ServerConfig
from tests.serving.conftest import make_client
from tests.serving.fakes import (
    TAG,
    MemoryRecorder,
    ObserverLog,
    ScriptedEngine,
    Stage,
    live_server,
)


@pytest.fixture(scope="module")
def stage() -> Iterator[tuple[Stage, str, openai.OpenAI]]:
    stage = Stage()
    with live_server(stage, lifespan="off") as url, make_client(url, strict=True) as client:
        yield stage, url, client


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def recorder() -> MemoryRecorder:
    return MemoryRecorder()


@pytest.fixture
def url(stage, engine, recorder) -> str:
    stage[0].app = create_app(
        engine, recorder, ObserverLog(), lambda accept: (b"", "text/plain"), ServerConfig()
    )
    return stage[1]


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def talk(url, stage, console) -> Talk:
    return Talk(stage[2], console, "everloop", ChatOptions(max_tokens=20, system="Be short."))


def said(console: Console) -> str:
    return console.file.getvalue()


def test_answer_is_shown_and_remembered(talk, engine, recorder, console):
    assert talk.take("Hi")
    assert talk.take("And?")
    assert said(console) == "Hello!\nHello!\n"
    asked = [message.content for message in recorder.interactions[1].messages]
    assert asked == ["Be short.", "Hi", "Hello!", "And?"]
    assert {row.conversation_id for row in recorder.interactions} == {talk.conversation.id}
    assert engine.requests[0][1].max_tokens == 20


def test_ratings_reach_the_last_answer(talk, recorder, console):
    for line in ("Hi", "/up", "/down", "/fix Good day."):
        talk.take(line)
    assert [(f.metric_name, f.value) for f in recorder.feedback] == [
        ("thumbs", True), ("thumbs", False), ("demonstration", "Good day."),
    ]  # fmt: skip
    assert {f.inference_id for f in recorder.feedback} == {recorder.interactions[0].id}
    talk.take("And?")
    assert recorder.interactions[1].messages[2].content == "Good day."


def test_nothing_can_be_rated_before_an_answer(talk, recorder, console):
    for line in ("/up", "/fix x", "/fix", "/again"):
        talk.take(line)
    assert recorder.feedback == []
    assert said(console).count("ask something first") == 3
    assert "write the better answer after /fix" in said(console)


@pytest.mark.parametrize("sampling", [TRAINED, IMPORTED])
def test_again_asks_the_same_question_and_samples(talk, engine, recorder, sampling):
    engine.current.sampling = sampling
    talk.take("Hi")
    talk.take("/again")
    first, second = (params for _, params in engine.requests)
    assert (first.temperature, second.temperature) == (0.0, sampling.temperature)
    assert recorder.interactions[0].messages == recorder.interactions[1].messages


def test_new_forgets_the_conversation(talk, recorder):
    for line in ("Hi", "/new", "Bye"):
        talk.take(line)
    assert [message.content for message in recorder.interactions[1].messages] == [
        "Be short.",
        "Bye",
    ]
    assert len({row.conversation_id for row in recorder.interactions}) == 2


def test_oldest_turns_are_left_out_when_they_do_not_fit(talk, recorder, console):
    for number in range(3):
        talk.take(str(number) * 150)
    assert [message.content[0] for message in recorder.interactions[2].messages] == list("B1H2")
    assert said(console).count("left out") == 1


def test_question_that_fits_alone_gets_a_shorter_answer(talk, engine):
    talk.take("x" * 460)
    assert engine.requests[0][1].max_tokens < 20


def test_error_is_shown_and_the_question_is_not_remembered(talk, recorder, console):
    talk.take("x" * 600)
    assert "error: This model's maximum context length is 512 tokens" in said(console)
    talk.take("Hi")
    assert [message.content for message in recorder.interactions[0].messages] == ["Be short.", "Hi"]


def test_stopped_answer_is_not_remembered(talk, engine, console, monkeypatch):
    def interrupt(*_, **__) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(console, "out", interrupt)
    assert talk.take("Hi")
    assert said(console) == "\nstopped\n"
    assert talk.conversation.messages == []


def test_cut_off_answer_says_so(talk, engine, console):
    engine.finish_reason = "length"
    talk.take("Hi")
    assert said(console) == "Hello!\ncut off at its longest\n"


def test_quit_and_help(talk, console):
    assert talk.take("/help")
    assert "/again" in said(console)
    assert talk.take("")
    assert not talk.take("/quit")


def test_chat_reads_lines_until_the_end_of_input(url, console, monkeypatch):
    lines = iter(["Hi", KeyboardInterrupt, EOFError])

    def read(_prompt: str) -> str:
        line = next(lines)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", read)
    chat(f"{url}/v1", console)
    assert said(console).startswith(f"Talking to {TAG}\n")
    assert "Hello!" in said(console)


def test_service_without_a_model_is_named(url, engine, console):
    engine.current = None
    with pytest.raises(EverloopError, match="no model yet"):
        chat(f"{url}/v1", console)


def test_service_that_does_not_answer_is_named(console):
    with pytest.raises(EverloopError, match="no service answers at http"):
        chat("http://127.0.0.1:9/v1", console)
