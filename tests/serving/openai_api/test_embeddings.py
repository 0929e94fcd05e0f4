"""Vectors of the right length in either encoding, alike alone and among others; clear refusals."""

import asyncio
import base64
import struct

import numpy as np
import openai
import pytest

from everloop.errors import EngineStoppedError
from tests.serving.conftest import make_client
from tests.serving.fakes import TAG, ScriptedVersion, leave_when, wait_until

PATH = "/v1/embeddings"
MODEL = {"model": "everloop"}


def vectors(http, **fields) -> list[list[float]]:
    reply = http.post(PATH, json=MODEL | {"encoding_format": "float"} | fields)
    assert reply.status_code == 200, reply.text
    assert [item["index"] for item in reply.json()["data"]] == list(
        range(len(reply.json()["data"]))
    )
    return [item["embedding"] for item in reply.json()["data"]]


def test_embedding_has_the_models_size_and_length_one(real_http):
    (vector,) = vectors(real_http, input="Once upon a time")
    assert len(vector) == 64
    assert sum(value * value for value in vector) == pytest.approx(1, abs=1e-5)


def test_embedding_is_alike_alone_and_among_others(real_http):
    texts = ["Once", "upon a time, long ago", "x"]
    together = vectors(real_http, input=texts)
    for text, vector in zip(texts, together, strict=True):
        assert vectors(real_http, input=text)[0] == pytest.approx(vector, abs=1e-4)
    assert together[0] != pytest.approx(together[1], abs=1e-2)


def test_embedding_takes_token_ids(real_http):
    text, ids = "ab", real_http.post("/tokenize", json={"prompt": "ab"}).json()["tokens"]
    expected = vectors(real_http, input=text)[0]
    assert vectors(real_http, input=ids)[0] == pytest.approx(expected, abs=1e-4)
    assert vectors(real_http, input=[ids, ids])[1] == pytest.approx(expected, abs=1e-4)


def test_base64_is_little_endian_float32(real_http):
    expected = vectors(real_http, input="Once")[0]
    reply = real_http.post(PATH, json=MODEL | {"input": "Once", "encoding_format": "base64"})
    raw = base64.b64decode(reply.json()["data"][0]["embedding"])
    assert struct.unpack("<64f", raw) == pytest.approx(expected, abs=1e-6)


def test_official_client_reads_them(real_url):
    # It asks for base64 by itself, and its own strict mode refuses what it asked for.
    with make_client(real_url, strict=False) as client:
        reply = client.embeddings.create(model="everloop", input=["Once", "upon"])
    assert [len(item.embedding) for item in reply.data] == [64, 64]
    assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (8, 8)


def test_own_dimensions_are_fine_and_others_are_not(real_http):
    assert len(vectors(real_http, input="x", dimensions=64)[0]) == 64
    reply = real_http.post(PATH, json=MODEL | {"input": "x", "dimensions": 32})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "dimensions"


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ("", "input"),
        ([], "input"),
        (None, "input"),
        (["a", ""], "input[1]"),
        ([[70], [999]], "input[1][0]"),
        ([True], "input"),
        (["x"] * 129, "input"),
    ],
)
def test_other_inputs_are_refused_by_name(real_http, value, param):
    reply = real_http.post(PATH, json=MODEL | {"input": value})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


def test_input_over_the_context_is_refused(real_client):
    with pytest.raises(openai.BadRequestError) as caught:
        real_client.embeddings.create(model="everloop", input="x" * 1100)
    assert caught.value.code == "context_length_exceeded"


def test_model_without_hidden_states_is_refused(client):
    with pytest.raises(openai.BadRequestError, match=r"export\.embeddings") as caught:
        client.embeddings.create(model="everloop", input="x")
    assert caught.value.code == "unsupported_model"


def test_leaving_ends_the_work(url, engine):
    engine.current.has_hidden_states = True
    begun, ended = [], []

    async def embed(prompt_token_ids, request_id, version=None, *, tenant=""):
        begun.append(request_id)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(request_id)

    engine.embed = embed
    leave_when(lambda: len(begun) == 2, url + PATH, MODEL | {"input": ["a", "b"]})
    assert wait_until(lambda: len(ended) == 2)


def test_request_over_its_time_is_a_timeout(http, engine, observer):
    engine.current.has_hidden_states = True
    ended = []

    async def embed(prompt_token_ids, request_id, version=None, *, tenant=""):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(request_id)

    engine.embed = embed
    body = MODEL | {"input": ["a", "b"]}
    reply = http.post(PATH, json=body, headers={"x-request-timeout": "0.2"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "timeout")
    assert len(ended) == 2
    assert wait_until(lambda: observer.requests)
    assert observer.requests == [("embeddings", TAG, "timeout", False)]


def test_timeout_that_is_no_time_is_refused(http, engine):
    engine.current.has_hidden_states = True
    reply = http.post(PATH, json=MODEL | {"input": "a"}, headers={"x-request-timeout": "soon"})
    assert reply.json()["error"]["param"] == "x-request-timeout"


def test_request_that_a_swap_overtakes_goes_to_the_new_champion(http, engine):
    engine.current.has_hidden_states = True
    successor = ScriptedVersion(tag="everloop:v20261124101600-def456", has_hidden_states=True)

    async def embed(prompt_token_ids, request_id, version=None, *, tenant=""):
        if version is not successor:
            engine.current = successor
            raise EngineStoppedError("no such model version is loaded")
        return np.array([3, 0, 4, 0], np.float32)

    engine.embed = embed
    reply = http.post(PATH, json=MODEL | {"input": "a", "encoding_format": "float"}).json()
    assert reply["model"] == successor.tag
    assert reply["data"][0]["embedding"] == pytest.approx([0.6, 0, 0.8, 0])


def test_failure_of_one_is_the_failure_of_all(http, engine):
    engine.current.has_hidden_states = True

    async def embed(prompt_token_ids, request_id, version=None, *, tenant=""):
        raise EngineStoppedError("the engine stopped")

    engine.embed = embed
    assert http.post(PATH, json=MODEL | {"input": ["a", "b"]}).status_code == 503
