"""Every wish of a request reaches the engine; defaults are the API's; seeds of several answers."""

import dataclasses

import pytest

from everloop.sampling_defaults import IMPORTED, SamplingDefaults
from serving.engine.sampling_params import SamplingParams
from serving.openai_api.config import ServerConfig
from serving.openai_api.sampling import seeded

WISHES = {
    "max_tokens": (9, 9),
    "min_tokens": (3, 3),
    "temperature": (0.5, 0.5),
    "top_k": (5, 5),
    "top_p": (0.5, 0.5),
    "min_p": (0.25, 0.25),
    "frequency_penalty": (-2, -2.0),
    "presence_penalty": (2, 2.0),
    "repetition_penalty": (1.5, 1.5),
    "logit_bias": ({"70": -100, "71": 0.5}, {70: -100.0, 71: 0.5}),
    "seed": (-(2**63), -(2**63)),
    "stop": ("END", ("END",)),
    "stop_token_ids": ([70, 0], (70, 0)),
    "ignore_eos": (True, True),
}
ROUTES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"prompt": "Hi"},
}


def params(http, engine, path: str, **fields) -> SamplingParams:
    reply = http.post(path, json={"model": "everloop"} | ROUTES[path] | fields)
    assert reply.status_code == 200, reply.text
    return engine.requests[-1][1]


@pytest.mark.parametrize("path", ROUTES)
def test_every_wish_reaches_the_engine(http, engine, path):
    found = params(http, engine, path, **{name: value for name, (value, _) in WISHES.items()})
    assert {name: getattr(found, name) for name in WISHES} == {
        name: wanted for name, (_, wanted) in WISHES.items()
    }


@pytest.mark.parametrize(("path", "max_tokens"), zip(ROUTES, (256, 16), strict=True))
def test_absent_and_null_are_the_defaults(http, engine, path, max_tokens):
    for fields in ({}, dict.fromkeys(WISHES)):
        found = params(http, engine, path, **fields)
        assert found == SamplingParams(max_tokens=max_tokens)


@pytest.mark.parametrize(
    ("path", "fields", "logprobs"),
    [
        ("/v1/chat/completions", {"logprobs": True}, 0),
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 20}, 20),
        ("/v1/chat/completions", {"logprobs": False}, None),
        ("/v1/completions", {"logprobs": 0}, 0),
        ("/v1/completions", {"logprobs": 5}, 5),
    ],
)
def test_logprobs_are_asked_for_by_either_form(http, engine, path, fields, logprobs):
    found = params(http, engine, path, **fields)
    assert (found.logprobs, found.prompt_logprobs) == (logprobs, None)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logit_bias": {"a": 1}}, "logit_bias.a"),
        ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
        ({"logit_bias": {"70": 101}}, "logit_bias.70"),
        ({"logit_bias": {"70": None}}, "logit_bias.70"),
        ({"logit_bias": {"259": 1}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"min_p": 1.1}, "min_p"),
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"presence_penalty": -2.1}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": 1e-300}, "repetition_penalty"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ["a", "b" * 257]}, "stop[1]"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"stop_token_ids": ["1"]}, "stop_token_ids[0]"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": True}, "n"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"logprobs": 1}, "logprobs"),
        ({"min_tokens": 10, "max_tokens": 9}, "min_tokens"),
    ],
)
def test_wish_out_of_range_is_refused_by_name(http, engine, fields, param):
    path = "/v1/chat/completions"
    reply = http.post(path, json={"model": "everloop"} | ROUTES[path] | fields)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
    assert engine.requests == []


def test_seeds_of_several_answers_are_the_same_every_time():
    # SHA-256 of "7:1" and "7:2", the first 8 bytes of each.
    one = SamplingParams(max_tokens=1, seed=7)
    assert [seeded(one, index).seed for index in range(3)] == [
        7, -2909097864693108509, -8246474142590387956,
    ]  # fmt: skip
    assert dataclasses.replace(seeded(one, 1), seed=7) == one


@pytest.mark.parametrize(
    ("fields", "user"),
    [
        ({"user": "u1"}, "u1"),
        ({"safety_identifier": "u2"}, "u2"),
        ({"user": "u1", "metadata": {"user": "u3"}}, "u3"),
        ({"user": ""}, None),
        ({}, None),
    ],
)
def test_user_is_kept_with_the_metadata(http, recorder, fields, user):
    path = "/v1/chat/completions"
    http.post(path, json={"model": "everloop"} | ROUTES[path] | fields)
    assert recorder.interactions[0].metadata.get("user") == user


BROUGHT = SamplingDefaults(
    temperature=0.6, top_p=0.8, top_k=20, repetition_penalty=1.1, source="generation_config.json"
)


def drawn(found: SamplingParams) -> tuple[object, ...]:
    return found.temperature, found.top_p, found.top_k, found.repetition_penalty


@pytest.mark.parametrize("path", ROUTES)
def test_defaults_of_the_weights_serve_who_sets_nothing(http, engine, path):
    engine.current.sampling = BROUGHT
    assert drawn(params(http, engine, path)) == (0.6, 0.8, 20, 1.1)
    assert drawn(params(http, engine, path, top_k=-1, repetition_penalty=1)) == (0.6, 0.8, None, 1)
    assert drawn(params(http, engine, path, temperature=0.2)) == (0.2, 1.0, None, 1.0)
    assert drawn(params(http, engine, path, top_p=0.5)) == (1.0, 0.5, None, 1.0)


@pytest.mark.parametrize(
    ("brought", "wanted"),
    [
        (SamplingDefaults(), (0.3, 1.0, None, 1.0)),
        (IMPORTED, (0.3, 0.9, None, 1.0)),
        (BROUGHT, (0.6, 0.8, 20, 1.1)),
    ],
)
def test_a_temperature_of_the_server_stands_in_for_one_of_the_weights(
    http, engine, app, brought, wanted
):
    app.state.api.config = ServerConfig(default_temperature=0.3)
    engine.current.sampling = brought
    assert drawn(params(http, engine, "/v1/completions")) == wanted
