"""Outputs from tokens: several in a step, and every way in which an answer ends."""

import pytest

from serving.engine.detokenizer import Detokenizer
from serving.engine.output_processor import OutputProcessor
from serving.engine.row_sampler import SampledRow
from serving.engine.sampling_params import SamplingParams
from serving.engine.sequence import RequestTimes, Sequence, TokenLogprobs
from serving.engine.vocabulary import Vocabulary
from tests.serving.engine.conftest import RecordingObserver, byte_tokenizer

TOKENIZER = byte_tokenizer()
EOS = 0


def _tokens(text: str) -> list[int]:
    ids: list[int] = TOKENIZER.encode(text).ids
    return ids


def _sequence(**settings: object) -> Sequence:
    params = SamplingParams(**{"max_tokens": 9, **settings})  # type: ignore[arg-type]
    detokenizer = Detokenizer(Vocabulary(TOKENIZER), params.stop)
    return Sequence("a", _tokens("Hello"), params, 0, detokenizer, arrival_time=1.0)


@pytest.fixture
def processor(observer: RecordingObserver) -> OutputProcessor:
    return OutputProcessor("tiny:1", frozenset({EOS}), observer)


def test_append_gives_the_tokens_of_a_step_in_one_output(
    processor: OutputProcessor, observer: RecordingObserver
) -> None:
    sequence = _sequence()
    processor.admit(sequence, 2.0)
    first = processor.append(sequence, SampledRow(_tokens("a")), 3.0)
    second = processor.append(sequence, SampledRow(_tokens("bcd")), 6.0)
    assert first is not None
    assert second is not None
    assert (first.text, second.text) == ("a", "bcd")
    assert second.token_ids == tuple(_tokens("bcd"))
    assert second.finish_reason is None
    assert observer.named("inter_token") == [()] * 3


def test_append_of_nothing_gives_no_output(processor: OutputProcessor) -> None:
    assert processor.append(_sequence(), SampledRow([]), 3.0) is None


@pytest.mark.parametrize(
    ("settings", "tokens", "text", "kept", "reason"),
    [
        ({}, [*_tokens("ab"), EOS, *_tokens("c")], "ab", 3, "stop"),
        ({"ignore_eos": True, "max_tokens": 3}, [EOS, EOS, *_tokens("abc")], "a", 3, "length"),
        ({"max_tokens": 2}, _tokens("abcd"), "ab", 2, "length"),
        ({"stop": ("b",)}, _tokens("abcd"), "a", 2, "stop"),
        ({"stop_token_ids": tuple(_tokens("c"))}, _tokens("abcd"), "ab", 3, "stop"),
    ],
)
def test_append_drops_what_comes_behind_the_end(
    processor: OutputProcessor,
    settings: dict[str, object],
    tokens: list[int],
    text: str,
    kept: int,
    reason: str,
) -> None:
    sequence = _sequence(**settings)
    output = processor.append(sequence, SampledRow(tokens), 3.0)
    assert output is not None
    assert (output.text, len(output.token_ids), output.finish_reason) == (text, kept, reason)
    assert sequence.num_completion_tokens == kept
    assert output.times == RequestTimes(1.0, None, 3.0, 3.0)


def test_append_gives_logprobs_of_the_kept_tokens_and_those_of_the_prompt_once(
    processor: OutputProcessor,
) -> None:
    logprobs = tuple(TokenLogprobs(token, -1.0, ()) for token in range(4))
    sequence = _sequence(max_tokens=3, prompt_logprobs=0)
    assert processor.append(sequence, SampledRow([], prompt_logprobs=logprobs[:2]), 3.0) is None
    first = processor.append(
        sequence, SampledRow([5], logprobs=logprobs[:1], prompt_logprobs=logprobs[2:]), 3.0
    )
    last = processor.append(sequence, SampledRow([5, 5, 5], logprobs=logprobs[:3]), 4.0)
    assert first is not None
    assert last is not None
    assert first.prompt_logprobs == (None, *logprobs)
    assert (first.logprobs, last.logprobs) == (logprobs[:1], logprobs[:2])
    assert last.prompt_logprobs == ()


def test_end_gives_a_last_output_without_tokens(
    processor: OutputProcessor, observer: RecordingObserver
) -> None:
    output = processor.end(_sequence(), "timeout", 4.0)
    assert (output.text, output.token_ids, output.finish_reason) == ("", (), "timeout")
    assert observer.named("finished") == [("timeout", 5, 0)]
