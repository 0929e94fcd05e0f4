"""Whatever JSON comes, the answer is 200 or a 4xx in the error form."""

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.openai_api.chat_request import ChatCompletionRequest
from serving.openai_api.completion_request import CompletionRequest
from serving.openai_api.embeddings import EmbeddingRequest
from serving.openai_api.feedback import FeedbackRequest
from serving.openai_api.tokenize import DetokenizeRequest, TokenizeRequest
from serving.openai_api.unsupported import CHAT, COMPLETIONS, EMBEDDINGS, TOKENIZE

SCHEMAS = (
    ChatCompletionRequest, CompletionRequest, EmbeddingRequest, FeedbackRequest, TokenizeRequest,
    DetokenizeRequest,
)  # fmt: skip
FIELDS = sorted(
    {*CHAT, *COMPLETIONS, *EMBEDDINGS, *TOKENIZE}.union(*(kind.model_fields for kind in SCHEMAS))
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(
        ["everloop", "user", "assistant", "tool", "text", "thumbs", "function", "required", "{}",
         "json_object", "json_schema"]
    ),
)  # fmt: skip
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "role",
                    "content",
                    "type",
                    "text",
                    "x",
                    "1",
                    "function",
                    "name",
                    "arguments",
                    "tool_calls",
                    "tool_call_id",
                    "id",
                    "parameters",
                    "json",
                    "regex",
                    "choice",
                    "json_schema",
                    "schema",
                    "strict",
                    "$ref",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
VALID = {
    "/v1/chat/completions": {"model": "everloop", "messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"model": "everloop", "prompt": "Hi"},
    "/v1/embeddings": {"model": "everloop", "input": "Hi"},
    "/tokenize": {"prompt": "Hi"},
    "/detokenize": {"tokens": [70]},
    "/v1/feedback": {"inference_id": "a", "metric_name": "thumbs", "value": True},
}


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    path=st.sampled_from(sorted(VALID)),
    fields=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3),
)
def test_any_json_is_answered(http, path, fields):
    reply = http.post(path, json=VALID[path] | fields)
    assert reply.status_code < 500, reply.text
    if reply.status_code != 200:
        assert set(json.loads(reply.content)["error"]) == {"message", "type", "param", "code"}


TOOLS = st.lists(
    st.fixed_dictionaries(
        {"type": st.just("function")},
        optional={
            "function": st.fixed_dictionaries(
                {"name": st.sampled_from(["f", "g", "a b"])},
                optional={"parameters": JSON, "strict": st.booleans(), "description": SCALARS},
            )
        },
    ),
    max_size=2,
)
CALLS = st.lists(
    st.fixed_dictionaries(
        {"id": SCALARS, "type": st.just("function")},
        optional={"function": st.fixed_dictionaries({"name": SCALARS, "arguments": SCALARS})},
    ),
    max_size=2,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool", "developer"])},
        optional={"content": SCALARS, "tool_calls": CALLS, "tool_call_id": SCALARS},
    ),
    max_size=3,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    messages=MESSAGES,
    tools=TOOLS,
    choice=st.sampled_from(["auto", "none", "required", {"type": "function", "function": {}}]),
    answer=st.sampled_from(["Hi", '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>']),
    stream=st.booleans(),
)
def test_any_tools_and_messages_are_answered(http, engine, messages, tools, choice, answer, stream):
    engine.pieces = [answer]
    engine.current.max_model_len = 10_000
    body = {"model": "everloop", "messages": messages, "tools": tools, "tool_choice": choice}
    reply = http.post("/v1/chat/completions", json=body | {"stream": stream})
    assert reply.status_code in (200, 400), reply.text
    assert '"server_error"' not in reply.text


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    path=st.sampled_from(["/v1/chat/completions", "/v1/completions"]),
    fields=st.dictionaries(
        st.sampled_from(sorted({*CompletionRequest.model_fields, "top_logprobs"} - {"max_tokens"})),
        JSON | st.integers(0, 6) | st.lists(st.integers(0, 258), max_size=3),
        max_size=3,
    ),
    tools=TOOLS,
    choice=st.sampled_from(["auto", "required"]),
)
def test_any_fields_are_answered_by_the_real_engine(real_http, path, fields, tools, choice):
    body = VALID[path] | {"max_tokens": 4, "tools": tools, "tool_choice": choice} | fields
    reply = real_http.post(path, json=body)
    assert reply.status_code in (200, 400, 404), (body, reply.text)
    assert '"server_error"' not in reply.text


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=st.binary(max_size=60))
def test_any_bytes_are_answered(http, body):
    reply = http.post("/v1/chat/completions", content=body)
    assert reply.status_code == 400
