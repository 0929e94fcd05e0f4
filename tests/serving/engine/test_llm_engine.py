"""The synchronous engine on a real tiny graph."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from everloop.errors import DataError, EngineError, PromptTooLongError
from everloop.manifest import Golden
from serving.engine import sampler, scheduler
from serving.engine.cache import MIN_PREFIX_TOKENS
from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine
from serving.engine.sampling_params import SamplingParams
from serving.engine.sequence import GenerationResult, RequestOutput
from serving.engine.step_times import StepTimes
from tests.serving.engine.conftest import RecordingObserver

Load = Callable[..., LLMEngine]
GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def engine(tiny_version: Path, engine_config: EngineConfig) -> LLMEngine:
    return LLMEngine.load(tiny_version, engine_config)


def _prompt(seed: int, size: int) -> list[int]:
    random_ = random.Random(seed)
    return [random_.randrange(3, 259) for _ in range(size)]


def _run(engine: LLMEngine) -> dict[str, GenerationResult]:
    """Step until nothing is left."""
    outputs: dict[str, list[RequestOutput]] = {}
    while engine.has_unfinished:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
    return {name: GenerationResult.join(each) for name, each in outputs.items()}


def _alone(load: Load, prompt: list[int], params: SamplingParams) -> GenerationResult:
    """What a fresh engine that has never seen anything else generates."""
    [result] = load(max_num_batched_tokens=128, max_num_seqs=1).generate([prompt], params)
    return result


def test_generate_gives_results_in_the_order_of_the_prompts(engine: LLMEngine) -> None:
    prompts = [_prompt(seed, size) for seed, size in enumerate((40, 3, 90, 1, 17, 5))]
    params = [SamplingParams(max_tokens=n, temperature=0.0, ignore_eos=True) for n in range(1, 7)]
    results = engine.generate(prompts, params)
    assert [len(result.token_ids) for result in results] == [1, 2, 3, 4, 5, 6]
    assert {result.finish_reason for result in results} == {"length"}


@pytest.mark.parametrize(
    "params",
    [
        GREEDY,
        SamplingParams(max_tokens=12, seed=3, ignore_eos=True),
        SamplingParams(max_tokens=12, temperature=0.8, top_p=0.9, top_k=40, seed=-5),
    ],
)
def test_batched_generation_equals_each_request_alone(load: Load, params: SamplingParams) -> None:
    prompts = [_prompt(seed, size) for seed, size in enumerate((40, 3, 90, 1, 17, 5))]
    assert load().generate(prompts, params) == [_alone(load, one, params) for one in prompts]


def test_int8_version_generates_in_a_batch_what_it_generates_alone(
    tmp_path: Path, engine_config: EngineConfig
) -> None:
    from tests.tiny_model import make_tiny_version

    engine = LLMEngine.load(make_tiny_version(tmp_path, precision="int8", seed=3), engine_config)
    prompts = [_prompt(seed, size) for seed, size in enumerate((40, 3, 60, 17))]
    together = engine.generate(prompts, GREEDY)
    alone = []
    for prompt in prompts:
        engine._cache.clear()
        alone += engine.generate([prompt], GREEDY)
    assert together == alone


@pytest.mark.parametrize("budget", [4, 7, 32, 100])
def test_chunked_prefill_equals_whole(load: Load, budget: int) -> None:
    prompt = _prompt(1, 100)
    [result] = load(max_num_batched_tokens=budget).generate([prompt], GREEDY)
    assert result == _alone(load, prompt, GREEDY)


def test_steps_split_in_two_runs_give_the_same(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [_prompt(seed, size) for seed, size in enumerate((40, 3, 90, 20))]
    expected = load().generate(prompts, GREEDY)
    monkeypatch.setattr(scheduler, "MAX_CELLS", 5)
    monkeypatch.setattr(scheduler, "_WIDE_CHUNK", 5)
    assert load().generate(prompts, GREEDY) == expected


def test_prefix_reuse_gives_identical_output_and_is_reported(
    load: Load, observer: RecordingObserver
) -> None:
    engine = load(observer)
    first, second = _prompt(1, 60), [*_prompt(1, 45), 9, 9, 9]
    engine.add_request("first", first, GREEDY)
    _run(engine)
    engine.add_request("second", second, GREEDY)
    outputs = []
    while engine.has_unfinished:
        outputs += engine.step()
    assert GenerationResult.join(outputs) == _alone(load, second, GREEDY)
    assert outputs[-1].num_cached_tokens == 45
    assert observer.named("scheduled") == [(60, 0), (48, 45)]


def _embed(engine: LLMEngine, texts: list[list[int]]) -> list[NDArray[np.float32]]:
    for number, text in enumerate(texts):
        engine.add_embedding(str(number), text)
    found = {}
    while engine.has_unfinished:
        for output in engine.step():
            if output.embedding is not None:
                found[output.request_id] = output.embedding
    return [found[str(number)] for number in range(len(texts))]


def test_embedding_is_the_mean_of_the_models_last_hidden_states(
    load: Load, tiny_version: Path
) -> None:
    import torch
    from transformers import AutoModel

    texts = [_prompt(seed, size) for seed, size in enumerate((1, 20, 100, 128))]
    [checkpoint] = tiny_version.parent.glob("checkpoint-*")
    model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32)
    with torch.inference_mode():
        expected = [model(torch.tensor([text])).last_hidden_state[0].mean(0) for text in texts]
    engine = load()
    engine.generate(texts[1:2], GREEDY)  # leaves a prefix that must not be taken
    for got, wanted in zip(_embed(engine, texts), expected, strict=True):
        np.testing.assert_allclose(got, wanted.numpy(), atol=1e-4)


def test_embedding_beside_generation_changes_neither(load: Load) -> None:
    engine = load()
    text, prompt = _prompt(1, 70), _prompt(2, 40)
    [alone] = _embed(engine, [text])
    engine.add_request("generation", prompt, GREEDY)
    engine.step()
    engine.add_embedding("embedding", text)
    outputs = []
    while engine.has_unfinished:
        outputs += engine.step()
    [embedding] = [one.embedding for one in outputs if one.embedding is not None]
    np.testing.assert_allclose(embedding, alone, atol=1e-5)
    generated = [one for one in outputs if one.request_id == "generation"]
    assert GenerationResult.join(generated).finish_reason == "length"


def test_embedding_that_is_too_long_is_refused(engine: LLMEngine) -> None:
    with pytest.raises(PromptTooLongError, match="the text has 129 tokens, the model takes 128"):
        engine.add_embedding("a", _prompt(1, 129))


def test_prompt_of_many_requests_is_computed_once(load: Load, observer: RecordingObserver) -> None:
    engine = load(observer)
    prompt = _prompt(1, 100)
    params = [SamplingParams(max_tokens=12, seed=seed, ignore_eos=True) for seed in range(4)]
    results = engine.generate([prompt] * 4, params)
    assert results == [_alone(load, prompt, one) for one in params]
    assert [cached for _, cached in observer.named("scheduled")] == [0, 96, 96, 96]


def test_conversation_reuses_its_own_answers(load: Load) -> None:
    engine = load()
    prompt = _prompt(2, 20)
    [answer] = engine.generate([prompt], GREEDY)
    longer = [*prompt, *answer.token_ids, 7, 8]
    engine.add_request("next", longer, GREEDY)
    outputs = []
    while engine.has_unfinished:
        outputs += engine.step()
    # The last token of an answer is chosen but never run, so its state is not there.
    assert outputs[-1].num_cached_tokens == 20 + 12 - 1
    assert GenerationResult.join(outputs) == _alone(load, longer, GREEDY)


def test_slots_are_used_again_and_again(load: Load) -> None:
    engine = load(max_num_seqs=2)
    prompts = [_prompt(seed, 5 + seed) for seed in range(12)]
    assert engine.generate(prompts, GREEDY) == [_alone(load, one, GREEDY) for one in prompts]


def test_unseeded_requests_differ(engine: LLMEngine) -> None:
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    first, second = engine.generate([_prompt(1, 9)] * 2, params)
    assert first.token_ids != second.token_ids


def test_max_tokens_ends_with_length(engine: LLMEngine) -> None:
    [result] = engine.generate([_prompt(1, 9)], GREEDY)
    assert (len(result.token_ids), result.finish_reason) == (12, "length")


def test_end_token_ends_with_stop_and_has_no_text(
    engine: LLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = iter([70, 71, 2, 72])
    monkeypatch.setattr(sampler, "choose", lambda *_: (next(script), None))
    params = SamplingParams(max_tokens=9, temperature=0.0)
    [result] = engine.generate([_prompt(1, 9)], params)
    text = engine.tokenizer.decode([70, 71])
    assert result == GenerationResult(text, (70, 71, 2), "stop")


def test_ignore_eos_goes_on_past_the_end_token(
    engine: LLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = iter([70, 2, 72])
    monkeypatch.setattr(sampler, "choose", lambda *_: (next(script), None))
    params = SamplingParams(max_tokens=3, temperature=0.0, ignore_eos=True)
    [result] = engine.generate([_prompt(1, 9)], params)
    assert result == GenerationResult(engine.tokenizer.decode([70, 72]), (70, 2, 72), "length")


def test_stop_text_across_tokens_ends_with_stop(
    engine: LLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = iter(engine.tokenizer.encode("one\n\ntwo").ids)
    monkeypatch.setattr(sampler, "choose", lambda *_: (next(script), None))
    [result] = engine.generate([_prompt(1, 9)], SamplingParams(max_tokens=20, stop=("\n\n",)))
    assert (result.text, result.finish_reason) == ("one", "stop")


def test_held_text_is_given_at_the_end_of_a_length_stop(
    engine: LLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = iter(engine.tokenizer.encode("ab\n").ids)
    monkeypatch.setattr(sampler, "choose", lambda *_: (next(script), None))
    [result] = engine.generate([_prompt(1, 9)], SamplingParams(max_tokens=3, stop=("\n\n",)))
    assert (result.text, result.finish_reason) == ("ab\n", "length")


def test_times_are_in_order_on_the_last_output_only(engine: LLMEngine) -> None:
    engine.add_request("a", _prompt(1, 40), GREEDY)
    outputs = []
    while engine.has_unfinished:
        outputs += engine.step()
    assert [output.times for output in outputs[:-1]] == [None] * 11
    times = outputs[-1].times
    assert times is not None
    assert times.arrival <= times.scheduled < times.first_token < times.finished


def test_abort_of_a_running_request_frees_its_slot(load: Load) -> None:
    engine = load(max_num_seqs=1)
    engine.add_request("long", _prompt(1, 40), GREEDY)
    engine.add_request("next", _prompt(2, 5), GREEDY)
    for _ in range(4):
        engine.step()
    engine.abort_request("long")
    aborted, *_ = engine.step()
    assert (aborted.request_id, aborted.finish_reason) == ("long", "abort")
    assert _run(engine)["next"].finish_reason == "length"


def test_abort_of_a_waiting_request_ends_it_without_a_slot(load: Load) -> None:
    engine = load(max_num_seqs=1)
    engine.add_request("first", _prompt(1, 5), GREEDY)
    engine.add_request("waiting", _prompt(2, 5), GREEDY)
    engine.step()
    engine.abort_request("waiting")
    assert _run(engine)["waiting"] == GenerationResult("", (), "abort")


def test_abort_of_an_unknown_request_does_nothing(engine: LLMEngine) -> None:
    engine.abort_request("never")
    assert not engine.has_unfinished


def test_deadline_ends_running_and_waiting_requests_with_timeout(
    load: Load, observer: RecordingObserver
) -> None:
    engine = load(observer, max_num_seqs=1)
    later = time.monotonic() + 60
    engine.add_request("running", _prompt(1, 5), GREEDY, deadline=later)
    engine.add_request("waiting", _prompt(2, 5), GREEDY, deadline=later - 1)
    engine.add_request("patient", _prompt(3, 5), GREEDY)
    engine.add_request("in time", _prompt(3, 5), GREEDY, deadline=later + 3600)
    engine.step()
    engine._end_overdue(later)
    results = _run(engine)
    assert {name: (len(r.token_ids), r.finish_reason) for name, r in results.items()} == {
        "running": (0, "timeout"),
        "waiting": (0, "timeout"),
        "patient": (12, "length"),
        "in time": (12, "length"),
    }
    assert [event[0] for event in observer.named("finished")].count("timeout") == 2


def test_deadline_that_has_passed_ends_a_request_at_the_next_step(load: Load) -> None:
    engine = load()
    engine.add_request("late", _prompt(1, 5), GREEDY, deadline=time.monotonic())
    assert _run(engine) == {"late": GenerationResult("", (), "timeout")}


def test_request_that_does_not_fit_is_refused(engine: LLMEngine) -> None:
    message = r"the prompt has 120 tokens and max_tokens is 12; together the model takes 128"
    with pytest.raises(PromptTooLongError, match=message):
        engine.add_request("a", _prompt(1, 120), GREEDY)
    assert not engine.has_unfinished


def test_request_that_just_fits_is_served(engine: LLMEngine) -> None:
    [result] = engine.generate([_prompt(1, 116)], GREEDY)
    assert len(result.token_ids) == 12


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "prompt is empty"), ([5, -1], "ids from -1 to 5"), ([259], "model knows 0 to 258")],
)
def test_prompt_that_the_model_cannot_read_is_refused(
    engine: LLMEngine, prompt: list[int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        engine.add_request("a", prompt, GREEDY)


def test_request_id_in_use_is_refused(load: Load) -> None:
    engine = load()
    engine.add_request("a", [5], GREEDY)
    with pytest.raises(DataError, match="request id a is still in use"):
        engine.add_request("a", [5], GREEDY)


def test_generate_beside_other_requests_is_refused(load: Load) -> None:
    engine = load()
    engine.add_request("a", [5], GREEDY)
    with pytest.raises(EngineError, match="offline"):
        engine.generate([[5]], GREEDY)


def test_failed_step_ends_its_own_rows_and_the_engine_goes_on(
    load: Load, monkeypatch: pytest.MonkeyPatch, observer: RecordingObserver
) -> None:
    monkeypatch.setattr(scheduler, "MAX_CELLS", 3)
    monkeypatch.setattr(scheduler, "_WIDE_CHUNK", 3)
    engine = load(observer)
    good = _prompt(2, 3)
    engine.add_request("bad", _prompt(1, 9), GREEDY)
    engine.add_request("good", good, GREEDY)
    engine._requests.get("bad").token_ids[4] = 10**6  # no such row of the embedding table
    results = _run(engine)
    assert results["bad"] == GenerationResult("", (), "error")
    assert results["good"] == _alone(load, good, GREEDY)
    assert ("error", 9, 0) in observer.named("finished")
    assert engine.generate([good], GREEDY) == [results["good"]]


def test_failed_step_keeps_no_prefix(load: Load) -> None:
    engine = load()
    prompt = _prompt(1, 60)
    engine.add_request("bad", prompt, GREEDY)
    engine._requests.get("bad").token_ids[50] = 10**6  # in the second chunk
    _run(engine)
    engine.add_request("again", prompt, GREEDY)
    outputs = []
    while engine.has_unfinished:
        outputs += engine.step()
    assert outputs[-1].num_cached_tokens == 0
    assert GenerationResult.join(outputs) == _alone(load, prompt, GREEDY)


class _BrokenSession:
    """A session after a failure that it does not recover from."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def io_binding(self) -> Any:
        return self._session.io_binding()

    def run_with_iobinding(self, binding: Any) -> None:
        raise RuntimeError("no longer usable")


def test_session_that_refuses_further_runs_is_opened_again(load: Load) -> None:
    engine = load()
    runner = engine._model_runner
    runner._session = _BrokenSession(runner._session)
    prompt = _prompt(1, 9)
    assert engine.generate([prompt], GREEDY) == [GenerationResult("", (), "error")]
    assert engine.generate([prompt], GREEDY) == [_alone(load, prompt, GREEDY)]


def test_observer_hears_every_event(load: Load, observer: RecordingObserver) -> None:
    engine = load(observer, max_num_seqs=2)
    engine.generate([_prompt(1, 40), _prompt(2, 5)], SamplingParams(max_tokens=3, ignore_eos=True))
    # 40 + 5 tokens at 32 a step, then two and two decode steps that overlap.
    assert observer.named("scheduled") == [(40, 0), (5, 0)]
    assert observer.named("first_token") == [(True,), (True,)]
    assert len(observer.named("inter_token")) == 4
    assert sorted(observer.named("finished")) == [("length", 5, 3), ("length", 40, 3)]
    assert observer.named("step") == [(1,), (2,), (2,), (2,)]
    assert observer.named("load")[0] == (1, 1, 0.5)
    assert observer.named("load")[-1] == (0, 0, 0.0)


@pytest.fixture
def free_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts that cost nothing, so that every one that is found is made."""
    monkeypatch.setattr(StepTimes, "draft_prices", lambda _, rows, longest: [0.0] * longest)


_LOOP = [*range(60, 72)] * 3  # a prompt that repeats itself


@pytest.mark.usefixtures("free_drafts")
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True),
        SamplingParams(max_tokens=40, temperature=0.3, seed=3, logprobs=2),
        SamplingParams(max_tokens=40, temperature=0.4, top_p=0.6, seed=3, stop=("qu", "xy")),
        SamplingParams(max_tokens=40, temperature=0.0, frequency_penalty=0.2, ignore_eos=True),
        SamplingParams(max_tokens=40, temperature=0.0, min_tokens=30),
    ],
)
def test_drafts_change_no_answer(
    load: Load, observer: RecordingObserver, params: SamplingParams
) -> None:
    prompts = [_LOOP, _prompt(1, 20) * 2, _prompt(2, 5), _LOOP[5:]]
    drafting = load(observer, speculation="auto", max_draft_tokens=6)
    results = drafting.generate(prompts, params)
    assert results == load().generate(prompts, params)
    assert sum(drafted for drafted, _ in observer.named("drafted")) > 0


@pytest.mark.parametrize(
    ("precision", "cache", "speculation", "expected"),
    [
        ("fp32", "fp32", "auto", True),
        ("fp32", "fp32", "off", False),
        ("int8", "fp32", "auto", False),
        ("int8", "fp32", "on", True),
        ("int8", "int8", "auto", True),
    ],
)
def test_drafts_are_made_by_themselves_only_where_no_rounding_shows(
    tmp_path: Path,
    engine_config: EngineConfig,
    precision: str,
    cache: str,
    speculation: str,
    expected: bool,
) -> None:
    from tests.tiny_model import make_tiny_version

    version = make_tiny_version(tmp_path, precision=precision, cache=cache, seed=3)
    config = engine_config.model_copy(update={"speculation": speculation})
    assert (LLMEngine.load(version, config)._scheduler._drafter is not None) is expected


@pytest.mark.usefixtures("free_drafts")
def test_drafts_that_stand_save_steps(load: Load, observer: RecordingObserver) -> None:
    engine = load(observer, speculation="auto")
    params = SamplingParams(max_tokens=60, temperature=0.0, ignore_eos=True)
    engine.generate([_LOOP], params)  # greedy answers of a small model fall into a loop
    accepted = sum(accepted for _, accepted in observer.named("drafted"))
    assert accepted > 20
    # Two steps for the prompt, and each token comes from a draft or a step of its own.
    assert len(observer.named("step")) == 1 + 60 - accepted
    assert len(observer.named("inter_token")) == 59


@pytest.mark.usefixtures("free_drafts")
def test_prefix_behind_rejected_drafts_is_what_was_answered(load: Load) -> None:
    engine = load(speculation="auto")
    params = SamplingParams(max_tokens=30, temperature=1.0, seed=5, ignore_eos=True)
    [answer] = engine.generate([_LOOP], params)
    longer = [*_LOOP, *answer.token_ids, 7, 8]
    assert engine.generate([longer], GREEDY) == [_alone(load, longer, GREEDY)]


@pytest.mark.usefixtures("free_drafts")
def test_failed_step_with_drafts_ends_its_rows_and_the_engine_goes_on(load: Load) -> None:
    engine = load(speculation="auto")
    prompt, long = _LOOP, _prompt(3, 90)
    engine.add_request("bad", prompt, SamplingParams(max_tokens=60, temperature=0.0))
    for _ in range(8):
        engine.step()
    engine.add_request("chunked", long, GREEDY)
    runner = engine._model_runner
    runner._session = _BrokenSession(runner._session)
    results = _run(engine)
    assert {result.finish_reason for result in results.values()} == {"error"}
    assert engine._cache.num_free_slots == 4
    assert engine.generate([long], GREEDY) == [_alone(load, long, GREEDY)]


def test_golden_check_is_not_observed_and_leaves_no_prefix(
    load: Load, observer: RecordingObserver, tiny_version: Path
) -> None:
    engine = load(observer)
    assert observer.events == []
    golden = Golden.model_validate_json((tiny_version / "golden.json").read_text("utf-8"))
    case = golden.cases[0]
    prompt = [*case.prompt_token_ids, *case.completion_token_ids]
    engine.generate([prompt], GREEDY)
    assert len(prompt) > MIN_PREFIX_TOKENS
    assert observer.named("scheduled") == [(len(prompt), 0)]


@pytest.mark.parametrize("seed", range(4))
def test_random_arrivals_and_aborts_change_no_answer(load: Load, seed: int) -> None:
    random_ = random.Random(seed)
    engine = load(max_num_batched_tokens=random_.choice((5, 16, 32)))
    shared = _prompt(seed, 50)
    requests = {
        str(number): (
            shared[: random_.randint(1, 50)] + _prompt(number, random_.randint(1, 20)),
            SamplingParams(
                max_tokens=random_.randint(1, 15),
                temperature=random_.choice((0.0, 1.0)),
                top_p=random_.choice((1.0, 0.7)),
                seed=number,
            ),
        )
        for number in range(16)
    }
    waiting = list(requests)
    outputs: dict[str, list[RequestOutput]] = {name: [] for name in requests}
    aborted = set()
    while waiting or engine.has_unfinished:
        if waiting and random_.random() < 0.4:
            name = waiting.pop(0)
            engine.add_request(name, *requests[name])
        if random_.random() < 0.05 and engine._requests:
            aborted.add(victim := random_.choice([one.seq_id for one in engine._requests]))
            engine.abort_request(victim)
        for output in engine.step():
            outputs[output.request_id].append(output)
    assert all(each[-1].finish_reason for each in outputs.values()), "every request ends"
    assert engine._cache.num_free_slots == 4, "every slot returns"
    alone = load(max_num_seqs=1)
    for name, (prompt, params) in requests.items():
        alone._cache.clear()
        [expected] = alone.generate([prompt], params)
        result = GenerationResult.join(outputs[name])
        if name in aborted:
            assert expected.token_ids[: len(result.token_ids)] == result.token_ids
        else:
            assert result == expected
