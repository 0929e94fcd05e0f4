"""Thousands of requests of every kind, many of them cancelled: nothing is kept, nothing is lost."""

import gc
import random

import psutil
import pytest

from everloop.errors import DataError
from serving.engine.llm_engine import LLMEngine
from serving.engine.sampling_params import SamplingParams, StructuredOutput
from tests.serving.engine.test_llm_engine import Load

NUM_REQUESTS = 2000
KINDS: list[dict[str, object]] = [
    {"temperature": 0.0},
    {"top_p": 0.9, "logprobs": 3},
    {"temperature": 0.0, "frequency_penalty": 0.5, "repetition_penalty": 1.1},
    {"temperature": 0.3, "stop": ("a", "\n\n")},
    {"temperature": 0.0, "prompt_logprobs": 1},
    {"structured": StructuredOutput("regex", "[a-z]{3,20}")},
]


def _add(engine: LLMEngine, name: str, random_: random.Random) -> None:
    shared = [5 + number % 11 for number in range(random_.randint(1, 60))]
    prompt = shared + [random_.randrange(3, 259) for _ in range(random_.randint(1, 30))]
    tenant = random_.choice("abc")
    if random_.random() < 0.1:
        engine.add_embedding(name, prompt, tenant=tenant)
        return
    params = SamplingParams(
        max_tokens=random_.randint(1, 30),
        seed=random_.getrandbits(30),
        **random_.choice(KINDS),  # type: ignore[arg-type]
    )
    deadline = 0.0 if random_.random() < 0.02 else None
    engine.add_request(name, prompt, params, tenant=tenant, deadline=deadline)


@pytest.mark.slow
def test_soak_of_many_requests_leaves_memory_flat_and_every_slot_free(load: Load) -> None:
    engine = load(max_num_seqs=8, speculation="auto", max_slowdown=2.5)
    random_ = random.Random(0)
    process = psutil.Process()
    sent = 0
    reasons: dict[str, int] = {}
    after_warm_up = 0
    while sent < NUM_REQUESTS or engine.has_unfinished:
        while sent < NUM_REQUESTS and len(engine._requests) < 24 and random_.random() < 0.7:
            _add(engine, str(sent), random_)
            sent += 1
            if sent == NUM_REQUESTS // 4:
                gc.collect()
                after_warm_up = process.memory_info().rss
        if random_.random() < 0.1 and len(engine._requests):
            engine.abort_request(random_.choice([one.seq_id for one in engine._requests]))
        for output in engine.step():
            if output.finish_reason:
                reasons[output.finish_reason] = reasons.get(output.finish_reason, 0) + 1
    gc.collect()
    assert sum(reasons.values()) == NUM_REQUESTS, "every request ends, once"
    assert set(reasons) == {"stop", "length", "abort", "timeout"}
    assert engine._cache.num_free_slots == 8, "every slot returns"
    assert (len(engine._scheduler.waiting), engine._scheduler.waiting._accounts) == (0, {})
    assert process.memory_info().rss == pytest.approx(after_warm_up, rel=0.05)


def test_refused_request_leaves_nothing_behind(load: Load) -> None:
    engine = load()
    engine.add_request("a", [5], SamplingParams(max_tokens=1))
    with pytest.raises(DataError, match="still in use"):
        engine.add_embedding("a", [5])
    while engine.has_unfinished:
        engine.step()
    assert engine._scheduler.waiting._accounts == {}
