"""What an answer must be, in the API's words and in vLLM's, reaches the engine as one thing."""

import json

import pytest

from serving.engine.sampling_params import StructuredOutput

CHAT = "/v1/chat/completions"
BODY = {"model": "everloop", "messages": [{"role": "user", "content": "Hi"}]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
NAMED = {"name": "answer", "schema": SCHEMA}


def json_schema(**fields) -> dict:
    return {"response_format": {"type": "json_schema", "json_schema": NAMED | fields}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"response_format": None, "structured_outputs": None}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, StructuredOutput("json_object")),
        (json_schema(), StructuredOutput("json_schema", json.dumps(SCHEMA))),
        (json_schema(strict=True), StructuredOutput("json_schema", json.dumps(SCHEMA))),
        (json_schema(schema=None), StructuredOutput("json_object")),
        (
            {"structured_outputs": {"json": SCHEMA}},
            StructuredOutput("json_schema", json.dumps(SCHEMA)),
        ),
        ({"structured_outputs": {"json": "{}"}}, StructuredOutput("json_schema", "{}")),
        ({"structured_outputs": {"json_object": True}}, StructuredOutput("json_object")),
        ({"structured_outputs": {"regex": "a+"}}, StructuredOutput("regex", "a+")),
        (
            {"structured_outputs": {"choice": ["yes", 'n"o\n']}},
            StructuredOutput("lark", r'start: "yes" | "n\"o\n"'),
        ),
        (
            {"structured_outputs": {"grammar": 'start: "a"'}},
            StructuredOutput("lark", 'start: "a"'),
        ),
    ],
)
def test_request_reaches_the_engine(http, engine, fields, expected):
    assert http.post(CHAT, json=BODY | fields).status_code == 200
    assert engine.requests[0][1].structured == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": "json_object"}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "text", "json_schema": NAMED}},
            "response_format.json_schema",
        ),
        (json_schema(name="a b"), "response_format.json_schema.name"),
        (json_schema(schema=[]), "response_format.json_schema.schema"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            "structured_outputs",
        ),
    ],
)
def test_wrong_request_is_refused_by_name(http, engine, fields, param):
    reply = http.post(CHAT, json=BODY | fields)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
    assert engine.requests == []


def ask(http, **fields) -> str:
    body = BODY | {"max_tokens": 60, "temperature": 1.0, "seed": 5} | fields
    (choice,) = http.post(CHAT, json=body).json()["choices"]
    assert choice["finish_reason"] == "stop"
    return choice["message"]["content"]


def test_real_model_keeps_to_it(real_http):
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    schema["additionalProperties"] = False
    answer = ask(real_http, response_format=json_schema(schema=schema)["response_format"])
    assert json.loads(answer)["a"] in (1, 2)
    assert ask(real_http, structured_outputs={"choice": ["yes", "no"]}) in ("yes", "no")
    assert set(ask(real_http, structured_outputs={"regex": "[ab]{3}"})) <= {"a", "b"}


@pytest.mark.parametrize(
    "wrong", [{"regex": "("}, {"grammar": "start: other"}, {"json": {"type": "nothing"}}]
)
def test_grammar_that_cannot_be_used_is_the_clients_error(real_http, wrong):
    reply = real_http.post(CHAT, json=BODY | {"structured_outputs": wrong})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "structured_outputs"
    assert "cannot be used" in reply.json()["error"]["message"]


def test_parameters_that_cannot_be_used_are_the_tools_fault(real_http):
    tool = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "x"}}}}
    fields = {"tools": [{"type": "function", "function": tool}], "tool_choice": "required"}
    reply = real_http.post(CHAT, json=BODY | fields)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "tools"
