"""Chats through the official client, and the wire format where the client would forgive."""

import json

import httpx
import openai
import pytest

from everloop.chat import CHAT_TEMPLATE, ChatTemplate
from everloop.records import Message
from tests.serving.fakes import TAG

ASK = [{"role": "user", "content": "Hi"}]
BODY = {"model": "everloop", "messages": ASK}


def events(response: httpx.Response) -> list[str]:
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") for block in blocks)
    return [block.removeprefix("data: ") for block in blocks]


def chunks(response: httpx.Response) -> list[dict]:
    data = events(response)
    assert data.pop() == "[DONE]"
    return [json.loads(text) for text in data]


def stream(http: httpx.Client, **fields) -> list[dict]:
    return chunks(http.post("/v1/chat/completions", json=BODY | {"stream": True} | fields))


def test_chat_answers_the_official_client(client):
    answer = client.chat.completions.create(model="everloop", messages=ASK)
    assert answer.choices[0].message.content == "Hello!"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == TAG
    assert answer.id.startswith("chatcmpl-")


def test_chat_reply_has_every_required_key(http):
    reply = http.post("/v1/chat/completions", json=BODY).json()
    assert set(reply) == {
        "id", "object", "created", "model", "system_fingerprint", "choices", "usage",
    }  # fmt: skip
    assert reply["object"] == "chat.completion"
    assert reply["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello!", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]


def test_chat_usage_counts_prompt_and_answer(client, engine):
    usage = client.chat.completions.create(model="everloop", messages=ASK).usage
    prompt = len(engine.requests[0][0])
    assert (usage.prompt_tokens, usage.completion_tokens) == (prompt, 4)
    assert usage.total_tokens == prompt + 4


def test_chat_prompt_is_the_rendered_template(client, engine):
    client.chat.completions.create(
        model="everloop", messages=[{"role": "developer", "content": "Be kind."}, *ASK]
    )
    prompt = engine.current.tokenizer.decode(engine.requests[0][0], skip_special_tokens=False)
    assert prompt == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_stream_through_the_official_client(client):
    with client.chat.completions.create(model="everloop", messages=ASK, stream=True) as answer:
        received = list(answer)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in received) == "Hello!"
    assert received[-1].choices[0].finish_reason == "stop"


def test_stream_first_delta_has_role_and_empty_content(http):
    assert stream(http)[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}


def test_stream_last_choice_has_finish_reason_and_empty_delta(http):
    last = stream(http)[-1]["choices"][0]
    assert last == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}


def test_stream_has_one_id_created_and_model(http):
    identity = {(chunk["id"], chunk["created"], chunk["model"]) for chunk in stream(http)}
    assert len(identity) == 1
    assert {chunk["object"] for chunk in stream(http)} == {"chat.completion.chunk"}


def test_stream_every_choice_has_the_logprobs_key(http):
    assert all(chunk["choices"][0]["logprobs"] is None for chunk in stream(http))


def test_stream_without_include_usage_has_no_usage(http):
    assert all("usage" not in chunk for chunk in stream(http))


def test_stream_with_include_usage_ends_with_the_counts(http):
    received = stream(http, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in received[:-1])
    assert received[-1]["choices"] == []
    assert received[-1]["usage"]["completion_tokens"] == 4


def test_stream_sends_no_chunk_for_an_output_without_text(http):
    texts = [chunk["choices"][0]["delta"].get("content") for chunk in stream(http)]
    assert texts == ["", "Hel", "lo", "!", None]


def test_stream_is_an_event_stream_that_nobody_buffers(http):
    headers = http.post("/v1/chat/completions", json=BODY | {"stream": True}).headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"


def test_chat_passes_the_sampling_wishes(client, engine):
    client.chat.completions.create(
        model=TAG,
        messages=ASK,
        temperature=0,
        top_p=0.5,
        seed=7,
        stop="END",
        max_completion_tokens=9,
        extra_body={"top_k": 5, "ignore_eos": True},
    )
    params = engine.requests[0][1]
    assert (params.temperature, params.top_p, params.seed, params.stop) == (0, 0.5, 7, ("END",))
    assert (params.max_tokens, params.top_k, params.ignore_eos) == (9, 5, True)


def test_chat_defaults_are_the_apis(client, engine):
    client.chat.completions.create(model="everloop", messages=ASK)
    params = engine.requests[0][1]
    assert (params.temperature, params.top_p, params.seed, params.stop) == (1.0, 1.0, None, ())
    assert (params.max_tokens, params.top_k) == (256, None)


def test_chat_default_limit_is_what_fits(client, engine):
    client.chat.completions.create(
        model="everloop", messages=[{"role": "user", "content": "x" * 400}]
    )
    tokens, params = engine.requests[0]
    assert params.max_tokens == 512 - len(tokens) < 256


@pytest.mark.parametrize(
    ("content", "limit"), [("x" * 600, None), ("x" * 400, 200), ("x" * 493, None)]
)
def test_chat_that_does_not_fit_is_context_length_exceeded(client, content, limit):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="everloop", messages=[{"role": "user", "content": content}], max_tokens=limit
        )
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"


def test_chat_text_parts_are_joined(client, recorder):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    client.chat.completions.create(model="everloop", messages=[{"role": "user", "content": parts}])
    assert recorder.interactions[0].messages == (Message(role="user", content="one\ntwo"),)


def test_chat_takes_null_for_every_optional_field(http):
    names = (
        "max_tokens max_completion_tokens temperature top_p top_k seed stop ignore_eos stream "
        "stream_options metadata store n logprobs top_logprobs tools tool_choice functions "
        "response_format logit_bias presence_penalty frequency_penalty user modalities audio"
    )
    body = BODY | dict.fromkeys(names.split())
    assert http.post("/v1/chat/completions", json=body).status_code == 200


def test_chat_template_gets_its_variables(http, engine):
    engine.current.chat_template = ChatTemplate("{{ messages[0]['content'] }}{{ mood }}")
    body = BODY | {"chat_template_kwargs": {"mood": "?"}}
    assert http.post("/v1/chat/completions", json=body).status_code == 200
    assert engine.current.tokenizer.decode(engine.requests[0][0]) == "Hi?"


@pytest.mark.parametrize(
    ("variables", "param"),
    [
        ({"messages": "x"}, "chat_template_kwargs.messages"),
        ({"eos_token": "x"}, "chat_template_kwargs.eos_token"),
        ([], "chat_template_kwargs"),
    ],
)
def test_chat_template_variables_that_are_none_are_refused(http, variables, param):
    reply = http.post("/v1/chat/completions", json=BODY | {"chat_template_kwargs": variables})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


def test_chat_takes_unknown_fields(http):
    assert http.post("/v1/chat/completions", json=BODY | {"future": {"x": 1}}).status_code == 200


def test_chat_takes_its_own_answer_back(client):
    answer = client.chat.completions.create(model="everloop", messages=ASK).choices[0].message
    again = client.chat.completions.create(
        model="everloop", messages=[*ASK, answer.model_dump(), *ASK]
    )
    assert again.choices[0].message.content == "Hello!"


def test_chat_without_template_points_to_completions(client, engine):
    engine.current.chat_template = None
    with pytest.raises(openai.BadRequestError, match="/v1/completions"):
        client.chat.completions.create(model="everloop", messages=ASK)


def test_chat_template_refusal_is_the_clients_error(client, engine):
    engine.current.chat_template = ChatTemplate(
        "{{ raise_exception('roles must alternate') }}" + CHAT_TEMPLATE
    )
    with pytest.raises(openai.BadRequestError, match="roles must alternate"):
        client.chat.completions.create(model="everloop", messages=ASK)


def test_chat_text_beyond_ascii_arrives_whole(client, engine):
    engine.pieces = ["Grüße ", "世界 ", "🎉\u2028\x85"]
    with client.chat.completions.create(model="everloop", messages=ASK, stream=True) as answer:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
    assert text == "Grüße 世界 🎉\u2028\x85"
