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
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "prediction": {"type": "content", "content": "x"},
    "web_search_options": {},
    "reasoning_effort": "low",
    "verbosity": "high",
    "service_tier": "flex",
    "moderation": {"model": "x"},
    "best_of": 2,
    "echo": True,
    "guided_json": {},
    "guided_regex": "a+",
    "use_beam_search": True,
    "chat_template": "x",
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
    "safety_identifier": "someone",
    "prompt_cache_key": "someone",
    "repetition_penalty": 1.0,
    "function_call": "none",
    "functions": [],
}
REFUSED_IN_COMPLETIONS = {"suffix": "end", "guided_choice": ["a"], "length_penalty": 2}
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
    ("name", "value"), [("audio", {"id": "x"}), ("refusal", "No."), ("function_call", {})]
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


def test_refusal_names_the_field_that_replaced_it(http):
    reply = post(http, CHAT, "guided_regex", "a+")
    assert reply.json()["error"]["message"].endswith("Send structured_outputs.regex.")
