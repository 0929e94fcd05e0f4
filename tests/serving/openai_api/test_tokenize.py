"""The tokens that a request would cost, and their text again."""

import pytest

MESSAGES = [{"role": "user", "content": "Hi"}]


def tokenize(http, **body):
    reply = http.post("/tokenize", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_prompt_has_the_tokens_of_a_completion(http, engine):
    found = tokenize(http, model="everloop", prompt="Hé")
    http.post("/v1/completions", json={"model": "everloop", "prompt": "Hé"})
    assert found["tokens"] == engine.requests[0][0]
    assert found == {
        "count": 3, "max_model_len": 512, "tokens": found["tokens"], "token_strs": None,
    }  # fmt: skip


def test_messages_have_the_tokens_of_a_chat(http, engine):
    tools = [{"type": "function", "function": {"name": "f"}}]
    found = tokenize(http, messages=MESSAGES, tools=tools)
    http.post(
        "/v1/chat/completions", json={"model": "everloop", "messages": MESSAGES, "tools": tools}
    )
    assert found["tokens"] == engine.requests[0][0]


def test_generation_prompt_can_be_left_out(http, engine):
    found = tokenize(http, messages=MESSAGES, add_generation_prompt=False)
    text = engine.current.tokenizer.decode(found["tokens"], skip_special_tokens=False)
    assert text == "<|im_start|>user\nHi<|im_end|>\n"


def test_names_of_tokens_are_given_on_request(http):
    found = tokenize(http, messages=MESSAGES, return_token_strs=True)
    assert found["token_strs"][:2] == ["<|im_start|>", "u"]


def test_detokenize_turns_back(http):
    tokens = tokenize(http, prompt="Grüße 世界")["tokens"]
    assert http.post("/detokenize", json={"tokens": tokens}).json() == {"prompt": "Grüße 世界"}
    reply = http.post("/detokenize", json={"model": "everloop", "tokens": [1, 2]})
    assert reply.json() == {"prompt": "<|im_start|><|im_end|>"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "x", "messages": MESSAGES}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": MESSAGES, "add_special_tokens": True}, "add_special_tokens"),
        ("/tokenize", {"prompt": "x", "chat_template": "y"}, "chat_template"),
        ("/tokenize", {"prompt": "x", "model": "other"}, "model"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [259]}, "tokens[0]"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
    ],
)
def test_other_bodies_are_refused_by_name(http, path, body, param):
    reply = http.post(path, json=body)
    assert reply.status_code in (400, 404)
    assert reply.json()["error"]["param"] == param
