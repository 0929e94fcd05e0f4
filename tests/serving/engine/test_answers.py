"""Whole answers by every sampling parameter, from a model whose weights are random."""

from collections.abc import Callable
from pathlib import Path

import pytest

from everloop.errors import DataError
from serving.engine import structured_output
from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine
from serving.engine.sampling_params import SamplingParams, StructuredOutput
from serving.engine.sequence import RequestOutput, TokenLogprobs

EOS = (0, 2)
PROMPT = list(range(40, 95))  # longer than a chunk


@pytest.fixture(scope="module")
def engine(tiny_version: Path, engine_config: EngineConfig) -> LLMEngine:
    return LLMEngine.load(tiny_version, engine_config)


def _params(**settings: object) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 8, "temperature": 0.0, "ignore_eos": True} | settings)


def _outputs(engine: LLMEngine, prompt: list[int], params: SamplingParams) -> list[RequestOutput]:
    engine.add_request("0", prompt, params)
    outputs: list[RequestOutput] = []
    while engine.has_unfinished:
        outputs += engine.step()
    return outputs


def _tokens(outputs: list[RequestOutput]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def _logprobs(outputs: list[RequestOutput]) -> list[TokenLogprobs]:
    return [each for output in outputs for each in output.logprobs]


def _logprob_after(engine: LLMEngine, context: list[int], token: int) -> TokenLogprobs:
    """What the model gives a token that is forced to come next."""
    # Two biases of a hundred outweigh any logit, and logprobs do not know of them.
    params = _params(max_tokens=1, logit_bias={token: 100.0}, logprobs=3)
    [found] = _logprobs(_outputs(engine, context, params))
    assert found.token_id == token
    return found


def test_logprobs_come_with_every_token_and_only_when_asked_for(engine: LLMEngine) -> None:
    outputs = _outputs(engine, PROMPT, _params(logprobs=4))
    assert [each.token_id for each in _logprobs(outputs)] == _tokens(outputs)
    assert all(len(each.top) == 4 for each in _logprobs(outputs))
    assert not _logprobs(_outputs(engine, PROMPT, _params()))


def test_greedy_tokens_are_the_first_of_their_alternatives(engine: LLMEngine) -> None:
    for each in _logprobs(_outputs(engine, PROMPT, _params(logprobs=2))):
        assert each.top[0] == (each.token_id, each.logprob)
        assert each.top[0][1] >= each.top[1][1]


def test_logprobs_are_the_models_whatever_else_is_asked_for(engine: LLMEngine) -> None:
    changed = _params(
        logprobs=3, temperature=1.7, top_k=30, seed=4, repetition_penalty=1.4, min_tokens=8
    )
    outputs = _outputs(engine, PROMPT, changed)
    tokens = _tokens(outputs)
    for place, found in enumerate(_logprobs(outputs)):
        expected = _logprob_after(engine, PROMPT + tokens[:place], tokens[place])
        assert found.logprob == pytest.approx(expected.logprob, abs=1e-4)
        assert [token for token, _ in found.top] == [token for token, _ in expected.top]


def test_prompt_logprobs_are_those_of_tokens_forced_one_by_one(engine: LLMEngine) -> None:
    first, *rest = _outputs(engine, PROMPT, _params(prompt_logprobs=3, logprobs=3))
    assert first.prompt_logprobs[0] is None
    assert len(first.prompt_logprobs) == len(PROMPT)
    assert not any(output.prompt_logprobs for output in rest)
    for place in (1, 2, 31, 32, 33, 54):  # at the borders of chunks too
        found = first.prompt_logprobs[place]
        expected = _logprob_after(engine, PROMPT[:place], PROMPT[place])
        assert found is not None
        assert found.token_id == PROMPT[place]
        assert found.logprob == pytest.approx(expected.logprob, abs=1e-4)
        assert [token for token, _ in found.top] == [token for token, _ in expected.top]


def test_prompt_logprobs_are_the_same_when_the_prompt_is_in_the_cache(engine: LLMEngine) -> None:
    fresh = _outputs(engine, PROMPT, _params(prompt_logprobs=1))[0].prompt_logprobs
    _outputs(engine, PROMPT, _params())
    outputs = _outputs(engine, PROMPT, _params(prompt_logprobs=1))
    assert outputs[-1].num_cached_tokens == 0
    assert outputs[0].prompt_logprobs == fresh


def test_prompt_logprobs_beside_other_requests_are_the_same(engine: LLMEngine) -> None:
    alone = _outputs(engine, PROMPT, _params(prompt_logprobs=2))[0].prompt_logprobs
    for name in "abc":
        engine.add_request(name, [*PROMPT[::-1], ord(name)], _params())
    engine.step()
    outputs = _outputs(engine, PROMPT, _params(prompt_logprobs=2))
    [found] = [output.prompt_logprobs for output in outputs if output.prompt_logprobs]
    for one, other in zip(found, alone, strict=True):
        assert (one is None) == (other is None)
        if one and other:
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)


def test_repetition_penalty_keeps_tokens_from_coming_again(engine: LLMEngine) -> None:
    plain = _tokens(_outputs(engine, PROMPT, _params(max_tokens=30)))
    varied = _tokens(_outputs(engine, PROMPT, _params(max_tokens=30, presence_penalty=2.0)))
    strict = _tokens(_outputs(engine, PROMPT, _params(max_tokens=30, repetition_penalty=1e6)))
    assert len(set(strict)) == 30
    assert not set(strict) & set(PROMPT)
    assert len(set(varied)) >= len(set(plain))


def test_logit_bias_forces_and_forbids(engine: LLMEngine) -> None:
    assert _tokens(_outputs(engine, PROMPT, _params(logit_bias={77: 100.0}))) == [77] * 8
    first = _tokens(_outputs(engine, PROMPT, _params(max_tokens=1)))[0]
    assert first not in _tokens(_outputs(engine, PROMPT, _params(logit_bias={first: -100.0})))


def test_min_tokens_keeps_the_answer_from_ending(engine: LLMEngine) -> None:
    bias = dict.fromkeys(EOS, 100.0)
    outputs = _outputs(engine, PROMPT, _params(ignore_eos=False, logit_bias=bias, min_tokens=5))
    tokens = _tokens(outputs)
    assert len(tokens) == 6
    assert tokens[-1] in EOS
    assert not set(tokens[:-1]) & set(EOS)


def test_stop_token_ids_end_the_answer_without_text(engine: LLMEngine) -> None:
    params = _params(stop_token_ids=(50,), logit_bias={50: 100.0}, min_tokens=3)
    outputs = _outputs(engine, PROMPT, params)
    assert outputs[-1].token_ids == (50,)
    assert outputs[-1].finish_reason == "stop"
    assert outputs[-1].text == ""
    assert len(_tokens(outputs)) == 4


def test_answers_with_every_parameter_do_not_depend_on_batch_mates(
    load: Callable[..., LLMEngine],
) -> None:
    each = [
        _params(temperature=1.0, seed=1, top_p=0.9, min_p=0.02),
        _params(temperature=1.2, seed=2, frequency_penalty=1.0, presence_penalty=0.3),
        _params(temperature=0.7, seed=3, top_k=20, repetition_penalty=1.3, logprobs=3),
        _params(temperature=1.0, seed=4, logit_bias={65: 5.0}, min_tokens=4, ignore_eos=False),
        _params(logprobs=0),
        _params(temperature=1.0, seed=5, stop=("a", "é"), stop_token_ids=(70, 71)),
    ]
    prompts = [PROMPT[index : 20 + 5 * index] for index in range(len(each))]
    together = load().generate(prompts, each)
    alone = [
        load(max_num_seqs=1).generate([prompt], one)[0]
        for prompt, one in zip(prompts, each, strict=True)
    ]
    assert together == alone


def test_request_that_cannot_go_on_ends_alone_and_says_why(
    engine: LLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structured_output, "_SECONDS_IN_RESERVE", 0.0)
    engine.add_request("good", PROMPT, _params())
    outputs = _outputs(engine, PROMPT, _params(structured=StructuredOutput("regex", "[a-z]+")))
    last = {output.request_id: output for output in outputs if output.finish_reason}
    assert last["good"].finish_reason == "length"
    assert last["good"].error is None
    assert last["0"].finish_reason == "error"
    assert isinstance(last["0"].error, DataError)
    assert str(last["0"].error) == (
        "structured: the grammar cannot be followed further: it takes too long."
    )


def test_answers_are_the_same_with_drafts_and_without(load: Callable[..., LLMEngine]) -> None:
    structured = StructuredOutput("regex", "(the same words again and again, ){1,4}[a-z]{3}")
    each = [
        _params(max_tokens=60, logit_bias={65: 30.0, 66: 30.0, 67: 30.0}),
        _params(max_tokens=60, temperature=1.0, seed=1, top_p=0.5, logprobs=2),
        _params(max_tokens=60, temperature=1.0, seed=2, frequency_penalty=-1.0),
        _params(max_tokens=60, temperature=1.0, seed=3, structured=structured, logprobs=0),
    ]
    prompts = [(PROMPT[:9] * 5)[index:] for index in range(len(each))]
    drafted = load(speculation="auto").generate(prompts, each)
    assert drafted == load(speculation="off").generate(prompts, each)
