"""What a request may hold: limits, wrong types, nulls, and bodies that are no JSON object."""

import pytest

from serving.openai_api.chat_request import ChatCompletionRequest
from serving.openai_api.errors import ApiError
from serving.openai_api.request_body import parse_body

CHAT = "/v1/chat/completions"
BODY = {"model": "everloop", "messages": [{"role": "user", "content": "Hi"}]}


def error(http, fields: dict, path: str = CHAT) -> dict:
    reply = http.post(path, json=fields)
    assert reply.status_code == 400, reply.text
    return reply.json()["error"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", 3),
        ("model", None),
        ("messages", "Hi"),
        ("messages", []),
        ("messages", None),
        ("temperature", "hot"),
        ("temperature", 2.1),
        ("temperature", -0.1),
        ("temperature", True),
        ("top_p", 1.1),
        ("top_p", -1),
        ("top_k", 1.5),
        ("top_k", -2),
        ("max_tokens", 0),
        ("max_tokens", "10"),
        ("max_tokens", 10.5),
        ("max_completion_tokens", 0),
        ("seed", 2**63),
        ("seed", 1.5),
        ("stop", 7),
        ("stop", ["a", "b", "c", "d", "e"]),
        ("stream", "yes"),
        ("stream", 1),
        ("stream_options", True),
        ("ignore_eos", "no"),
        ("store", "no"),
        ("metadata", ["a"]),
        ("metadata", {str(number): "x" for number in range(17)}),
    ],
)
def test_wrong_value_is_refused_by_name(http, name, value):
    found = error(http, BODY | {name: value})
    assert found["param"] == name
    assert name in found["message"]
    assert found["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", 2]}, "stop[1]"),
        ({"metadata": {"key": 1}}, "metadata.key"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "4"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "function", "content": "4"}]}, "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "4"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]",
        ),
        ({"messages": [{"role": "user", "content": ["text"]}]}, "messages[0].content[0]"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text"}]}
                ]
            },
            "messages[0].content[1]",
        ),
        ({"tool_choice": "some"}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tool_choice": {"type": "function", "function": {}}}, "tool_choice.function.name"),
        ({"tool_choice": {"type": "tool", "function": {"name": "f"}}}, "tool_choice.type"),
        ({"structured_outputs": {"json": 5}}, "structured_outputs.json"),
        ({"chat_template_kwargs": {"mood": []}}, "chat_template_kwargs.mood"),
    ],
)
def test_wrong_part_is_refused_by_its_path(http, fields, param):
    assert error(http, BODY | fields)["param"] == param


@pytest.mark.parametrize("name", ["model", "messages"])
def test_missing_field_is_named(http, name):
    found = error(http, {key: value for key, value in BODY.items() if key != name})
    assert found["message"] == f"{name} is required."
    assert found["code"] == "missing_required_parameter"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"text"', b"null", b'{"a": NaN}', b"\xff\xfe", b"[" * 5000]
)
def test_body_that_is_no_json_object_is_refused(http, body):
    reply = http.post(CHAT, content=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "invalid_json"


def test_lone_surrogate_is_refused(http):
    body = b'{"model":"everloop","messages":[{"role":"user","content":"\\ud800"}]}'
    reply = http.post(CHAT, content=body)
    assert reply.status_code == 400


@pytest.mark.parametrize("number", [b"1e400", b"9" * 400])
def test_number_beyond_all_types_is_refused(http, number):
    body = b'{"model":"everloop","messages":[{"role":"user","content":"x"}],"temperature":%b}'
    assert http.post(CHAT, content=body % number).status_code == 400


def test_shown_value_is_cut(http):
    found = error(http, BODY | {"temperature": "x" * 5000})
    assert len(found["message"]) < 200


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 7, "max_completion_tokens": 7}, 7),
        ({}, None),
    ],
)
def test_wanted_tokens_has_two_names(fields, limit):
    assert ChatCompletionRequest.model_validate(BODY | fields).wanted_tokens == limit


@pytest.mark.parametrize("value", [-1, 0, None])
def test_top_k_off(http, engine, value):
    assert http.post(CHAT, json=BODY | {"top_k": value}).status_code == 200
    assert engine.requests[0][1].top_k is None


def test_top_p_zero_is_the_most_probable_token(http, engine):
    assert http.post(CHAT, json=BODY | {"top_p": 0}).status_code == 200
    assert 0 < engine.requests[0][1].top_p < 1e-5


def test_parse_body_names_the_fault_in_the_json():
    with pytest.raises(ApiError, match="not valid JSON"):
        parse_body(b'{"model": ', ChatCompletionRequest)


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "Hi", "name": None, "tool_calls": None}]},
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "a", "type": None, "function": {"name": "f", "arguments": "{}"}}
                    ],
                },
            ]
        },
        {"stream_options": None, "tools": None, "tool_choice": None, "response_format": None},
        {"structured_outputs": {"json_object": True, "regex": None, "choice": None}},
    ],
)
def test_null_is_absent_everywhere(fields):
    ChatCompletionRequest.model_validate(BODY | fields)


def test_null_where_something_is_required_is_missing(http):
    assert error(http, BODY | {"model": None})["code"] == "missing_required_parameter"
