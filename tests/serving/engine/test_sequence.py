from tokenizers import Tokenizer, models

from serving.engine.detokenizer import Detokenizer
from serving.engine.sampling_params import SamplingParams
from serving.engine.sequence import (
    GenerationResult,
    RequestOutput,
    RequestTimes,
    Sequence,
    TokenLogprobs,
)
from serving.engine.vocabulary import Vocabulary


def _sequence() -> Sequence:
    detokenizer = Detokenizer(Vocabulary(Tokenizer(models.BPE(vocab={}, merges=[]))))
    return Sequence("a", [5, 6, 7], SamplingParams(max_tokens=4), 0, detokenizer, 10.0)


def test_sequence_tells_prompt_and_completion_apart() -> None:
    sequence = _sequence()
    sequence.token_ids += [8, 9]
    assert sequence.prompt_token_ids == [5, 6, 7]
    assert sequence.completion_token_ids == [8, 9]
    assert (sequence.num_prompt_tokens, sequence.num_completion_tokens) == (3, 2)


def test_sequence_pending_tokens_are_those_without_state() -> None:
    sequence = _sequence()
    assert sequence.num_pending_tokens == 3
    sequence.num_computed_tokens = 3
    sequence.token_ids.append(8)
    assert sequence.num_pending_tokens == 1


def test_sequence_times_of_a_request_that_was_never_scheduled() -> None:
    assert _sequence().times(12.0) == RequestTimes(10.0, None, None, 12.0)


def test_generation_result_joins_the_outputs_of_all_steps() -> None:
    outputs = [
        RequestOutput("a", "x", (1,), None),
        RequestOutput("a", "", (2,), None),
        RequestOutput("a", "yz", (3,), "stop"),
    ]
    assert GenerationResult.join(outputs) == GenerationResult("xyz", (1, 2, 3), "stop")


def test_generation_result_keeps_logprobs() -> None:
    one, two = TokenLogprobs(1, -0.5, ()), TokenLogprobs(2, -0.25, ((2, -0.25),))
    outputs = [
        RequestOutput("a", "x", (1,), None, logprobs=(one,), prompt_logprobs=(None, two)),
        RequestOutput("a", "y", (2,), "stop", logprobs=(two,)),
    ]
    result = GenerationResult.join(outputs)
    assert result.logprobs == (one, two)
    assert result.prompt_logprobs == (None, two)
