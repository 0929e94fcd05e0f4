"""Known fields that the server does not do are refused by name; their defaults are fine."""

import pytest

from serving.openai_api.errors import ApiError
from serving.openai_api.unsupported import refuse_unsupported

CHAT = (
    "/v1/chat/completions",
    {"model": "everloop", "messages": [{"role": "user", "content": ""}]},
)
COMPLETIONS = ("/v1/completions", {"model": "everloop", "prompt": "Once"})

REFUSED_IN_CHAT = {
    "n": 2,
    "logprobs": True,
    "top_logprobs": 3,
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "required",
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "response_format": {"type": "json_object"},
    "logit_bias": {"50": -100},
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "prediction": {"type": "content", "content": "x"},
    "web_search_options": {},
    "reasoning_effort": "low",
    "verbosity": "high",
    "service_tier": "flex",
    "moderation": {"model": "x"},
    "min_p": 0.1,
    "repetition_penalty": 1.2,
    "guided_json": {},
}
FINE_IN_CHAT = {
    "n": 1,
    "logprobs": False,
    "tools": [],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "response_format": {"type": "text"},
    "logit_bias": {},
    "presence_penalty": 0,
    "frequency_penalty": 0.0,
    "modalities": ["text"],
    "service_tier": "auto",
    "verbosity": "medium",
    "user": "someone",
    "safety_identifier": "someone",
    "prompt_cache_key": "someone",
    "repetition_penalty": 1.0,
}
REFUSED_IN_COMPLETIONS = {
    "n": 2,
    "best_of": 3,
    "echo": True,
    "logprobs": 0,
    "suffix": "end",
    "logit_bias": {"50": 1},
    "presence_penalty": 1,
    "frequency_penalty": 1,
}
FINE_IN_COMPLETIONS = {"n": 1, "best_of": 1, "echo": False, "suffix": "", "logit_bias": {}}


def post(http, route, name, value):
    path, body = route
    return http.post(path, json=body | {name: value})


@pytest.mark.parametrize("name", REFUSED_IN_CHAT)
def test_chat_refuses_by_name(http, engine, name):
    reply = post(http, CHAT, name, REFUSED_IN_CHAT[name])
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == name
    assert reply.json()["error"]["code"] == "unsupported_parameter"
    assert engine.requests == []


@pytest.mark.parametrize("name", FINE_IN_CHAT)
def test_chat_takes_a_value_that_asks_for_nothing(http, name):
    assert post(http, CHAT, name, FINE_IN_CHAT[name]).status_code == 200


@pytest.mark.parametrize("name", REFUSED_IN_COMPLETIONS)
def test_completions_refuse_by_name(http, name):
    reply = post(http, COMPLETIONS, name, REFUSED_IN_COMPLETIONS[name])
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == name


@pytest.mark.parametrize("name", FINE_IN_COMPLETIONS)
def test_completions_take_a_value_that_asks_for_nothing(http, name):
    assert post(http, COMPLETIONS, name, FINE_IN_COMPLETIONS[name]).status_code == 200


@pytest.mark.parametrize(
    ("name", "value"), [("tool_calls", [{"id": "1"}]), ("name", "Ada"), ("audio", {"id": "x"})]
)
def test_message_fields_are_refused_by_their_path(http, name, value):
    path, body = CHAT
    message = {"role": "assistant", "content": "x", name: value}
    reply = http.post(path, json=body | {"messages": [*body["messages"], message]})
    assert reply.json()["error"]["param"] == f"messages[1].{name}"


def test_true_is_not_one():
    with pytest.raises(ApiError, match="n is not supported"):
        refuse_unsupported({"n": True}, {"n": (1,)})


def test_refusal_says_what_to_do():
    with pytest.raises(ApiError) as caught:
        refuse_unsupported({"n": 2}, {"n": (1,)})
    assert str(caught.value) == "n is not supported by this server. Leave it out or send 1."
