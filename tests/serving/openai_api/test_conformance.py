"""Every reply and every chunk against the official client's own types, strictly: no key too many,
no key of a wrong type. And one test for each way in which other servers broke their clients.
"""

import json
from typing import Literal

import httpx
import openai
import pytest
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from tests.serving.fakes import leave_when, wait_until

ASK = [{"role": "user", "content": "Hello"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CHATS = {
    "plain": {},
    "greedy": {"temperature": 0, "ignore_eos": True},
    "several": {"n": 3, "seed": 1},
    "logprobs": {"logprobs": True, "ignore_eos": True},
    "top logprobs": {"logprobs": True, "top_logprobs": 3, "ignore_eos": True, "n": 2},
    "stop": {"stop": ["a", "\n"], "ignore_eos": True},
    "penalties": {"frequency_penalty": 1, "presence_penalty": -1, "logit_bias": {"70": 5}},
    "extras": {"min_p": 0.1, "top_k": 5, "repetition_penalty": 1.2, "min_tokens": 2},
    "json": {"response_format": {"type": "json_object"}, "max_tokens": 40},
    "choice": {"structured_outputs": {"choice": ["yes", "no"]}},
    "tools unused": {"tools": [WEATHER], "temperature": 0},
    "tool forced": {
        "tools": [WEATHER],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 120,
        "logprobs": True,
    },
}
COMPLETIONS = {
    "plain": {"prompt": "Once"},
    "tokens": {"prompt": [70, 71, 72]},
    "several prompts": {"prompt": ["Once", "upon"], "n": 2, "seed": 4},
    "several token prompts": {"prompt": [[70, 71], [72]]},
    "logprobs": {"prompt": "Once", "logprobs": 2, "ignore_eos": True},
    "echo": {"prompt": "Once", "echo": True},
    "echo logprobs": {"prompt": ["Once", [1, 70]], "echo": True, "logprobs": 1},
}


def extra_keys(value: object, path: str = "") -> list[str]:
    """Keys that the official types do not know."""
    if isinstance(value, BaseModel):
        found = [f"{path}.{name}" for name in value.model_extra or {}]
        for name in type(value).model_fields:
            found += extra_keys(getattr(value, name), f"{path}.{name}")
        return found
    if isinstance(value, list):
        return [key for member in value for key in extra_keys(member, f"{path}[]")]
    return []


def check(kind: type[BaseModel], data: dict) -> BaseModel:
    parsed = kind.model_validate(data, strict=True)
    assert extra_keys(parsed) == []
    return parsed


def check_completion(data: dict) -> None:
    """As OpenAI's own server sends it, where the types of its client do not allow a null."""
    for choice in data["choices"]:
        choice["finish_reason"] = choice["finish_reason"] or "stop"
        if choice["logprobs"]:
            lists = choice["logprobs"]
            lists["token_logprobs"] = [value or 0.0 for value in lists["token_logprobs"]]
            lists["top_logprobs"] = [value or {} for value in lists["top_logprobs"]]
    check(Completion, data)


def post(http: httpx.Client, path: str, **fields) -> httpx.Response:
    reply = http.post(path, json={"model": "everloop", "max_tokens": 6} | fields)
    assert reply.status_code == 200, reply.text
    return reply


def chunks(http: httpx.Client, path: str, **fields) -> list[dict]:
    reply = post(http, path, stream=True, stream_options={"include_usage": True}, **fields)
    *data, done, end = reply.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    assert all(line.startswith("data: ") for line in data)
    return [json.loads(line.removeprefix("data: ")) for line in data]


def chat(http: httpx.Client, **fields) -> dict:
    return post(http, "/v1/chat/completions", messages=ASK, **fields).json()


def chat_chunks(http: httpx.Client, **fields) -> list[dict]:
    return chunks(http, "/v1/chat/completions", messages=ASK, **fields)


# Whole replies and streams.


@pytest.mark.parametrize("name", CHATS)
def test_chat_reply_is_of_the_official_type(real_http, name):
    reply = chat(real_http, **CHATS[name])
    check(ChatCompletion, reply)
    assert [choice["index"] for choice in reply["choices"]] == list(range(CHATS[name].get("n", 1)))


@pytest.mark.parametrize("name", CHATS)
def test_chat_stream_is_of_the_official_type_and_says_the_same(real_http, name):
    fields = CHATS[name] | {"seed": 9}
    received = chat_chunks(real_http, **fields)
    for chunk in received:
        check(ChatCompletionChunk, chunk)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in received}) == 1
    whole = chat(real_http, **fields)
    for choice in whole["choices"]:
        parts = [
            part
            for chunk in received
            for part in chunk["choices"]
            if part["index"] == choice["index"]
        ]
        text = "".join(part["delta"].get("content") or "" for part in parts)
        assert text == (choice["message"]["content"] or "")
        assert parts[-1]["finish_reason"] == choice["finish_reason"]
        tokens = [t for part in parts for t in (part["logprobs"] or {"content": []})["content"]]
        expected = (choice["logprobs"] or {"content": []})["content"]
        assert [token["bytes"] for token in tokens] == [token["bytes"] for token in expected]


@pytest.mark.parametrize("name", COMPLETIONS)
def test_completion_reply_is_of_the_official_type(real_http, name):
    fields = COMPLETIONS[name]
    reply = post(real_http, "/v1/completions", **fields).json()
    check_completion(reply)


@pytest.mark.parametrize("name", COMPLETIONS)
def test_completion_stream_is_of_the_official_type_and_says_the_same(real_http, name):
    fields = COMPLETIONS[name] | {"seed": 9}
    whole = post(real_http, "/v1/completions", **fields).json()
    received = chunks(real_http, "/v1/completions", **fields)
    texts = [""] * len(whole["choices"])
    for chunk in received:
        for part in chunk["choices"]:
            texts[part["index"]] += part["text"]
        check_completion(chunk)
    assert texts == [choice["text"] for choice in whole["choices"]]


def test_embedding_reply_is_of_the_official_type(real_http):
    reply = post(real_http, "/v1/embeddings", input=["a", "bc"], encoding_format="float").json()
    check(CreateEmbeddingResponse, reply)


def test_models_are_of_the_official_type(real_http):
    for model in real_http.get("/v1/models").json()["data"]:
        # Ours alone: what was measured of this version at load.
        assert isinstance(model.pop("batch_invariant"), bool)
        # Ours too: what is used where a request sets neither temperature nor top_p.
        assert set(model.pop("sampling")) == {
            "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "source",
        }  # fmt: skip
        check(Model, model)


# How others broke clients. Each test is named after the project and the number of its issue.


def test_usage_not_in_every_chunk_kubeai_283(real_http):
    *before, last = chat_chunks(real_http)
    assert all(chunk["usage"] is None for chunk in before)
    assert last["usage"]["total_tokens"] > 0
    assert last["choices"] == []


def test_usage_is_in_the_stream_when_asked_for_vllm_7299(real_http):
    fields = {"ignore_eos": True, "n": 2}
    assert chat_chunks(real_http, **fields)[-1]["usage"]["completion_tokens"] == 12
    received = chunks(real_http, "/v1/completions", prompt="Once", **fields)
    assert received[-1]["usage"] == {
        "prompt_tokens": 4, "completion_tokens": 12, "total_tokens": 16,
        "prompt_tokens_details": received[-1]["usage"]["prompt_tokens_details"],
    }  # fmt: skip


def test_top_logprobs_is_a_list_litellm_21932(real_http):
    (choice,) = chat(real_http, logprobs=True, ignore_eos=True)["choices"]
    assert [token["top_logprobs"] for token in choice["logprobs"]["content"]] == [[]] * 6


def test_chat_logprobs_are_objects_llama_cpp_python_1787(real_http):
    (choice,) = chat(real_http, logprobs=True, top_logprobs=2, ignore_eos=True)["choices"]
    assert set(choice["logprobs"]) == {"content", "refusal"}
    for token in choice["logprobs"]["content"]:
        assert set(token) == {"token", "logprob", "bytes", "top_logprobs"}
        assert [set(top) for top in token["top_logprobs"]] == [{"token", "logprob", "bytes"}] * 2


def test_logprob_is_never_null_xinference_5252(real_http):
    # A token that the bias forbids in practice has a tiny probability and still a number.
    (choice,) = chat(
        real_http, logprobs=True, top_logprobs=20, logit_bias={"70": -100}, ignore_eos=True
    )["choices"]
    numbers = [
        number
        for token in choice["logprobs"]["content"]
        for number in (token["logprob"], *(top["logprob"] for top in token["top_logprobs"]))
    ]
    assert len(numbers) == 6 * 21
    assert all(isinstance(number, float) and -9999 <= number <= 0 for number in numbers)


def test_logprobs_are_in_the_stream_modular_5085(real_http):
    received = chat_chunks(real_http, logprobs=True, ignore_eos=True)
    with_text = [
        part for chunk in received for part in chunk["choices"] if part["delta"].get("content")
    ]
    assert with_text
    assert all(part["logprobs"]["content"] for part in with_text)


def test_finish_reason_is_tool_calls_mlx_lm_782(real_http):
    reply = chat(real_http, **CHATS["tool forced"])
    assert reply["choices"][0]["finish_reason"] == "tool_calls"
    *_, closing, _usage = chat_chunks(real_http, **CHATS["tool forced"])
    assert closing["choices"][0]["finish_reason"] == "tool_calls"


def test_logprobs_key_is_always_there_openai_php_375(real_http):
    assert all("logprobs" in choice for choice in chat(real_http, n=2)["choices"])
    for chunk in chat_chunks(real_http, n=2):
        assert all("logprobs" in choice for choice in chunk["choices"])


def test_first_delta_has_role_and_content_llamafactory_1795(real_http):
    first = chat_chunks(real_http)[0]["choices"][0]["delta"]
    assert first == {"role": "assistant", "content": ""}


def test_refusal_is_always_there_mlcommons_endpoints_133(real_http):
    assert chat(real_http)["choices"][0]["message"]["refusal"] is None


def test_stop_is_honoured_llamafactory_3114(real_http):
    whole = chat(real_http, temperature=0, ignore_eos=True)["choices"][0]["message"]["content"]
    stop = whole[2:4]
    choice = chat(real_http, temperature=0, ignore_eos=True, stop=stop)["choices"][0]
    assert choice["message"]["content"] == whole[: whole.index(stop)]
    assert choice["finish_reason"] == "stop"


LONG = {"model": "everloop", "messages": ASK, "max_tokens": 980, "ignore_eos": True, "n": 4}


@pytest.fixture
def was_ended(real_app, real_recorder):
    """Whether the answers asked for since now were broken off, and the engine is idle."""
    start = len(real_recorder.interactions)

    def is_over() -> bool:
        found = real_recorder.interactions[start:]
        broken_off = [row.finish_reason == "abort" and row.completion_tokens < 980 for row in found]
        is_idle = not real_app.state.api.engine.current.has_unfinished
        return is_idle and broken_off == [True] * 4

    return is_over


def test_generation_ends_when_its_client_leaves_vllm_54947(real_http, real_app, held, was_ended):
    held.hold_in(3)
    body = LONG | {"stream": True}
    with real_http.stream("POST", "/v1/chat/completions", json=body) as reply:
        next(reply.iter_raw())
    assert wait_until(lambda: real_app.state.api.num_active == 0)
    held.let_go()
    assert wait_until(was_ended)


def test_generation_ends_when_nobody_waits_mlx_vlm_1217(real_url, real_app, held, was_ended):
    held.hold_in(3)
    leave_when(lambda: real_app.state.api.num_active, f"{real_url}/v1/chat/completions", LONG)
    assert wait_until(lambda: real_app.state.api.num_active == 0)
    held.let_go()
    assert wait_until(was_ended)


class Answer(BaseModel):
    kind: Literal["yes", "no"]
    times: Literal[1, 2]


def test_official_client_parses_an_answer_into_its_type(real_client):
    reply = real_client.chat.completions.parse(
        model="everloop", messages=ASK, max_tokens=400, seed=1, response_format=Answer
    )
    assert isinstance(reply.choices[0].message.parsed, Answer)


@pytest.mark.parametrize("stream", [False, True])
def test_official_client_parses_a_call_into_its_type(real_client, stream):
    fields = {"model": "everloop", "messages": ASK, "max_tokens": 150, "tool_choice": "required"}
    fields["tools"] = [openai.pydantic_function_tool(Answer)]
    fields["parallel_tool_calls"] = False
    if stream:
        with real_client.chat.completions.stream(**fields) as events:
            reply = events.get_final_completion()
    else:
        reply = real_client.chat.completions.parse(**fields)
    (call,) = reply.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Answer)


def test_error_object_in_a_stream_raises_in_the_official_client(real_client):
    with pytest.raises(openai.APIError) as caught:
        stream = real_client.chat.completions.create(
            model="everloop",
            messages=ASK,
            max_tokens=600,
            stream=True,
            extra_body={"ignore_eos": True},
            extra_headers={"x-request-timeout": "0.02"},
        )
        for _ in stream:
            pass
    assert caught.value.code == "timeout"
