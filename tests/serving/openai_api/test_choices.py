"""Several answers to a request: their order, seeds, usage, records, and their common end."""

import json

import httpx
import pytest

from everloop.errors import EngineStoppedError, StoreError
from everloop.records import Message
from serving.engine.sequence import RequestOutput, TokenLogprobs
from serving.engine.vocabulary import Vocabulary
from serving.openai_api.config import ServerConfig
from tests.serving.fakes import ScriptedVersion, byte_tokenizer, wait_until

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ASK = {"model": "everloop", "messages": [{"role": "user", "content": "Hi"}]}


def stream(http: httpx.Client, path: str, **fields) -> list[dict]:
    text = http.post(path, json={"stream": True} | fields).text
    *data, done, _ = text.split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in data]


def test_answers_come_in_order_with_one_id(http, engine):
    reply = http.post(CHAT, json=ASK | {"n": 3}).json()
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
    assert [choice["message"]["content"] for choice in reply["choices"]] == ["Hello!"] * 3
    assert len(engine.requests) == 3


def test_prompt_counts_once_in_the_usage(http, engine):
    usage = http.post(CHAT, json=ASK | {"n": 3}).json()["usage"]
    assert usage["prompt_tokens"] == len(engine.requests[0][0])
    assert usage["completion_tokens"] == 12


def test_answers_are_interleaved_in_a_stream_and_each_ends(http):
    received = stream(http, CHAT, **ASK, n=2)
    parts = [chunk["choices"][0] for chunk in received]
    for index in (0, 1):
        own = [part for part in parts if part["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(part["delta"].get("content", "") for part in own) == "Hello!"
        assert [part["finish_reason"] for part in own] == [None] * (len(own) - 1) + ["stop"]
    assert [part["index"] for part in parts[:2]] == [0, 1]
    indices = [part["index"] for part in parts[2:]]
    assert indices != sorted(indices)


def test_seeds_differ_and_the_first_is_the_requests(http, engine):
    http.post(CHAT, json=ASK | {"n": 3, "seed": 7})
    http.post(CHAT, json=ASK | {"n": 3, "seed": 7})
    seeds = [params.seed for _, params in engine.requests]
    assert seeds[0] == 7
    assert len(set(seeds[:3])) == 3
    assert seeds[:3] == seeds[3:]
    assert all(-(2**63) <= seed < 2**63 for seed in seeds)


def test_without_a_seed_none_is_made_up(http, engine):
    http.post(CHAT, json=ASK | {"n": 2})
    assert [params.seed for _, params in engine.requests] == [None, None]


def test_prompts_come_before_answers_in_the_order_of_choices(http, engine, recorder):
    body = {"model": "everloop", "prompt": ["a", "bc"], "n": 2, "seed": 1}
    reply = http.post(TEXT, json=body).json()
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    prompts = [engine.current.tokenizer.decode(ids) for ids, _ in engine.requests]
    assert prompts == ["a", "a", "bc", "bc"]
    # A prompt among several gets what it would get alone.
    seeds = [params.seed for _, params in engine.requests]
    assert seeds[:2] == seeds[2:]
    assert reply["usage"]["prompt_tokens"] == 3
    kept = {row.id: row.messages[0].content for row in recorder.interactions}
    assert kept == dict(
        zip([reply["id"], *(f"{reply['id']}-{n}" for n in (1, 2, 3))], prompts, strict=True)
    )


def test_every_answer_is_recorded_and_can_be_rated(http, recorder):
    completion = http.post(CHAT, json=ASK | {"n": 2}).json()["id"]
    assert [row.id for row in recorder.interactions] == [completion, f"{completion}-1"]
    assert all(
        row.messages == (Message(role="user", content="Hi"),) for row in recorder.interactions
    )
    body = {"inference_id": f"{completion}-1", "metric_name": "thumbs", "value": True}
    assert http.post("/v1/feedback", json=body).status_code == 200


def test_one_answer_that_cannot_be_recorded_fails_the_reply(http, recorder, observer):
    keep, calls = recorder.record, []

    async def fail_second(interaction) -> None:
        calls.append(interaction)
        if len(calls) == 2:
            raise StoreError("the store is away")
        await keep(interaction)

    recorder.record = fail_second
    assert http.post(CHAT, json=ASK | {"n": 3}).status_code == 503
    assert len(recorder.interactions) == 2
    assert observer.dropped == 1


def test_leaving_ends_every_answer(http, engine, recorder):
    engine.pieces = ["Hel", None, "lo"]
    with http.stream("POST", CHAT, json=ASK | {"stream": True, "n": 3}) as response:
        next(response.iter_raw())
    assert wait_until(lambda: len(engine.aborted) == 3)
    assert len(set(engine.aborted)) == 3
    assert wait_until(lambda: len(recorder.interactions) == 3)
    assert {row.finish_reason for row in recorder.interactions} == {"abort"}


def test_failure_of_one_ends_the_others(http, engine):
    engine.pieces = ["Hel", EngineStoppedError("the engine stopped")]
    reply = http.post(CHAT, json=ASK | {"n": 3})
    assert reply.status_code == 503
    assert len(engine.aborted) == 3


def test_request_that_is_refused_in_the_middle_leaves_nothing_behind(http, engine):
    admit, asked = engine.generate, []

    def refuse_third(*arguments, **fields):
        asked.append(arguments[2])
        if len(asked) == 3:
            raise EngineStoppedError("no more")
        return admit(*arguments, **fields)

    engine.generate = refuse_third
    assert http.post(CHAT, json=ASK | {"n": 4}).status_code == 503
    assert len(asked) == 3
    assert engine.requests == []  # none of the first two had been asked for a token


def test_request_that_a_swap_overtakes_goes_to_the_new_champion(http, engine, recorder):
    """Between reading a request and starting it, another version may have taken over."""
    start, successor = engine.generate, ScriptedVersion(tag="everloop:v20261124101600-def456")

    def generate(prompt, params, request_id, version=None, **fields):
        if version is not successor:
            engine.current = successor
            raise EngineStoppedError("no such model version is loaded")
        return start(prompt, params, request_id, version, **fields)

    engine.generate = generate
    reply = http.post(CHAT, json=ASK)
    assert reply.status_code == 200
    assert reply.json()["model"] == successor.tag
    assert [row.model_version for row in recorder.interactions] == [successor.tag]


class TestBound:
    @pytest.fixture
    def config(self) -> ServerConfig:
        return ServerConfig(max_choices=4)

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"prompt": "a", "n": 5}, "n"),
            ({"prompt": "a", "best_of": 5}, "n"),
            ({"prompt": ["a"] * 5}, "prompt"),
            ({"prompt": ["a", "b", "c"], "n": 2}, "prompt"),
        ],
    )
    def test_answers_are_bounded_over_all_prompts(self, http, engine, fields, param):
        reply = http.post(TEXT, json={"model": "everloop"} | fields)
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == param
        assert "server.max_choices" in reply.json()["error"]["message"]
        assert engine.requests == []


# best_of and echo, of completions.


class RankedEngine:
    """Answers each request with its number, and with the logprob that is scripted for it."""

    def __init__(self, engine, logprobs: list[float]) -> None:
        self.engine, self.logprobs, self.params = engine, logprobs, []

    @property
    def current(self):
        return self.engine.current

    async def generate(self, prompt_token_ids, params, request_id, version=None, **_):
        number = len(self.params)
        self.params.append(params)
        entry = TokenLogprobs(70, self.logprobs[number], ())
        yield RequestOutput(request_id, str(number), (70,), "stop", logprobs=(entry,))


def test_best_of_gives_the_most_probable_answers(http, app, engine, recorder):
    ranked = app.state.api.engine = RankedEngine(engine, [-3.0, -1.0, -2.0, -1.0, -9.0, -0.5])
    body = {"model": "everloop", "prompt": ["a", "b"], "best_of": 3, "n": 2}
    reply = http.post(TEXT, json=body).json()
    assert [choice["text"] for choice in reply["choices"]] == ["1", "2", "5", "3"]
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    assert all(choice["logprobs"] is None for choice in reply["choices"])
    assert reply["usage"]["completion_tokens"] == 6
    assert {params.logprobs for params in ranked.params} == {0}
    assert [row.answer for row in recorder.interactions] == ["1", "2", "5", "3"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"best_of": 21}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"min_tokens": 17}, "min_tokens"),
        ({"logit_bias": {"259": 1}}, "logit_bias"),
        ({"stop_token_ids": [259]}, "stop_token_ids"),
    ],
)
def test_completion_refuses(http, fields, param):
    reply = http.post(TEXT, json={"model": "everloop", "prompt": "a"} | fields)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


def test_best_of_equal_to_n_can_be_streamed(http):
    body = {"model": "everloop", "prompt": "a", "best_of": 2, "n": 2}
    assert {part["index"] for chunk in stream(http, TEXT, **body) for part in chunk["choices"]} == {
        0, 1,
    }  # fmt: skip


def test_echo_comes_first(http):
    body = {"model": "everloop", "prompt": "Once", "echo": True}
    assert http.post(TEXT, json=body).json()["choices"][0]["text"] == "OnceHello!"
    received = stream(http, TEXT, **body)
    assert received[0]["choices"][0]["text"] == "OnceHel"


VOCABULARY = Vocabulary(byte_tokenizer())
END = 2  # <|im_end|>
ID_OF = {VOCABULARY.bytes_of(token_id): token_id for token_id in range(3, 259)}


def raw_bytes(name: str) -> bytes:
    """The bytes of a token by its name in the reply, such as bytes:\\xe4."""
    if name.startswith("bytes:"):
        return bytes.fromhex(name.removeprefix("bytes:").replace("\\x", ""))
    return name.encode()


def test_logprobs_of_an_echoed_prompt_are_exact(real_http):
    """What the model says of a text is the same whether it reads or writes it."""
    fields = {"model": "everloop", "temperature": 0, "logprobs": 0, "max_tokens": 5}
    extra = {"ignore_eos": True, "echo": True}
    written = real_http.post(TEXT, json=fields | extra | {"prompt": [70, 71, 72]}).json()
    lists = written["choices"][0]["logprobs"]
    assert lists["token_logprobs"][0] is None
    ids = [70, 71, 72, *(ID_OF[raw_bytes(name)] for name in lists["tokens"][3:])]
    read = real_http.post(
        TEXT, json=fields | {"prompt": ids, "echo": True, "max_tokens": 0}
    ).json()["choices"][0]
    assert read["finish_reason"] == "length"
    assert read["logprobs"]["tokens"] == lists["tokens"]
    assert read["logprobs"]["token_logprobs"][1:] == pytest.approx(
        lists["token_logprobs"][1:], abs=1e-3
    )


def test_scoring_counts_no_answer(real_http):
    body = {"model": "everloop", "prompt": "Once", "echo": True, "max_tokens": 0, "logprobs": 2}
    reply = real_http.post(TEXT, json=body).json()
    assert reply["choices"][0]["text"] == "Once"
    assert reply["usage"]["completion_tokens"] == 0
    assert reply["choices"][0]["logprobs"]["text_offset"] == [0, 1, 2, 3]


def test_logprobs_end_where_a_stop_cuts_the_text(real_http):
    body = {"model": "everloop", "prompt": "Once", "temperature": 0, "logprobs": 0}
    body |= {"ignore_eos": True, "max_tokens": 12}
    whole = real_http.post(TEXT, json=body).json()["choices"][0]
    stop = whole["text"][4:6]
    cut = real_http.post(TEXT, json=body | {"stop": stop}).json()["choices"][0]
    size = len(cut["text"])
    assert size == whole["text"].index(stop)
    kept = [offset for offset in whole["logprobs"]["text_offset"] if offset < size]
    assert cut["logprobs"]["text_offset"] == kept


def test_logprobs_of_a_text_hold_the_token_that_ended_it(real_http):
    """lm-eval scores a prompt by echo and one more token, and counts on that one."""
    ids = [ID_OF[b"C"], ID_OF[b"D"], ID_OF[b"E"]]
    body = {"model": "everloop", "prompt": ids[:2], "echo": True, "max_tokens": 1, "logprobs": 1}
    for end, name in ((END, "<|im_end|>"), (ids[2], "E")):
        forced = {"logit_bias": {str(end): 100}, "stop_token_ids": [ids[2]]}
        ended = real_http.post(TEXT, json=body | forced).json()["choices"][0]
        assert (ended["text"], ended["finish_reason"]) == ("CD", "stop")
        assert ended["logprobs"]["tokens"] == ["C", "D", name]
        assert ended["logprobs"]["text_offset"] == [0, 1, 2]
        assert len(ended["logprobs"]["top_logprobs"]) == 3


def test_logprobs_of_a_streamed_text_hold_the_token_that_ended_it(real_http):
    fields = {"model": "everloop", "prompt": "Once", "max_tokens": 4, "logprobs": 0}
    chunks = stream(real_http, TEXT, **fields, logit_bias={str(END): 100})
    parts = [choice["logprobs"] for chunk in chunks for choice in chunk["choices"]]
    assert [name for part in parts if part for name in part["tokens"]] == ["<|im_end|>"]
