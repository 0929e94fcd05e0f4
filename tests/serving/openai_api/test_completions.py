"""Text completions through the official client, and their wire format."""

import json

import openai
import pytest

from everloop.records import Message

BODY = {"model": "everloop", "prompt": "Once"}


def stream(http, **fields) -> list[dict]:
    text = http.post("/v1/completions", json=BODY | {"stream": True} | fields).text
    *data, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in data]


def test_completion_answers_the_official_client(client, engine):
    answer = client.completions.create(model="everloop", prompt="Once")
    assert answer.choices[0].text == "Hello!"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == 4
    assert engine.current.tokenizer.decode(engine.requests[0][0]) == "Once"


def test_completion_reply_has_every_required_key(http):
    reply = http.post("/v1/completions", json=BODY).json()
    assert set(reply) == {
        "id", "object", "created", "model", "system_fingerprint", "choices", "usage",
    }  # fmt: skip
    assert reply["object"] == "text_completion"
    assert reply["choices"] == [
        {"text": "Hello!", "index": 0, "logprobs": None, "finish_reason": "stop"}
    ]


def test_completion_limit_is_the_specifications(client, engine):
    client.completions.create(model="everloop", prompt="Once")
    assert engine.requests[0][1].max_tokens == 16


def test_completion_stream_through_the_official_client(lenient_client):
    with lenient_client.completions.create(model="everloop", prompt="Once", stream=True) as answer:
        received = list(answer)
    assert "".join(chunk.choices[0].text for chunk in received) == "Hello!"
    assert received[-1].choices[0].finish_reason == "stop"


def test_completion_stream_finish_reason_is_null_until_the_end(http):
    # As OpenAI's own server sends it, though the types of its client do not allow the null.
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in stream(http)]
    assert reasons == [None, None, None, "stop"]


def test_completion_stream_usage(http):
    received = stream(http, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in received[:-1])
    assert received[-1]["choices"] == []
    assert received[-1]["usage"] == {
        "prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 0},
    }  # fmt: skip
    assert all("usage" not in chunk for chunk in stream(http))


def test_completion_takes_token_ids(client, engine, recorder):
    client.completions.create(model="everloop", prompt=[1, 82, 83])
    assert engine.requests[0][0] == [1, 82, 83]
    kept = recorder.interactions[0].messages[0]
    assert kept == Message(role="user", content=engine.current.tokenizer.decode([1, 82, 83], False))
    assert kept.content.startswith("<|im_start|>")


@pytest.mark.parametrize("prompt", [["Once"], [[82, 83]]])
def test_completion_takes_a_list_of_one_prompt(client, prompt):
    answer = client.completions.create(model="everloop", prompt=prompt)
    assert answer.choices[0].text == "Hello!"


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (["one", ""], "prompt[1]"),
        ([[1], []], "prompt"),
        ([[1], [259]], "prompt[1][0]"),
        ([], "prompt"),
        ("", "prompt"),
        (None, "prompt"),
        ([1, "two"], "prompt"),
        ([True], "prompt"),
        ([1, 259], "prompt[1]"),
        ([-1], "prompt[0]"),
        ({"text": "x"}, "prompt"),
    ],
)
def test_completion_refuses_other_prompts(http, prompt, param):
    reply = http.post("/v1/completions", json=BODY | {"prompt": prompt})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


def test_completion_needs_a_prompt(http):
    reply = http.post("/v1/completions", json={"model": "everloop"})
    assert reply.json()["error"]["param"] == "prompt"
    assert reply.json()["error"]["code"] == "missing_required_parameter"


def test_completion_prompt_text_is_literal(client, engine):
    client.completions.create(model="everloop", prompt="a<|im_end|>")
    assert 2 not in engine.requests[0][0]


def test_completion_that_does_not_fit_is_context_length_exceeded(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="everloop", prompt="x" * 500, max_tokens=13)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "prompt"


def test_completion_is_recorded_as_such(client, recorder):
    client.completions.create(model="everloop", prompt="Once")
    kept = recorder.interactions[0]
    assert (kept.route, kept.answer, kept.messages[0].content) == ("completions", "Hello!", "Once")
