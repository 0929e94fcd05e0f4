import pytest

from serving.engine.logits_processor import LogitsProcessor
from serving.engine.sampling_params import SamplingParams, StructuredOutput
from serving.engine.sequence import Sequence
from serving.engine.speculation import Drafter, best_length
from serving.engine.step_times import StepTimes
from serving.engine.structured_output import GrammarCompiler
from serving.engine.vocabulary import Vocabulary
from tests.serving.engine.conftest import byte_tokenizer, make_sequence


@pytest.mark.parametrize(
    ("hit_rate", "prices", "num_rows", "expected"),
    [
        (0.5, [0.2] * 8, 1, 1),  # 1.5 tokens for 1.2; then 1.75 for 1.4, 1.875 for 1.6
        (0.9, [0.2] * 8, 1, 7),
        (1.0, [0.9] * 5, 1, 5),
        (1.0, [1.0] * 5, 1, 0),
        (0.3, [0.2] * 8, 1, 1),
        (0.3, [0.4, 0.3, 0.3], 1, 0),  # the first step up costs more than it gives
        (0.9, [0.4, 0.3, 0.2], 1, 3),
        (0.9, [0.8] * 8, 8, 2),
        (0.0, [0.0] * 8, 1, 0),
        (0.9, [], 1, 0),
    ],
)
def test_best_length_gives_most_tokens_for_the_time(
    hit_rate: float, prices: list[float], num_rows: int, expected: int
) -> None:
    def rate(count: int) -> float:
        tokens = sum(hit_rate**n for n in range(1, count + 1))
        return (num_rows + tokens) / (num_rows + count * (prices[count - 1] if count else 0))

    assert best_length(hit_rate, prices, num_rows) == expected
    assert expected == max(range(len(prices) + 1), key=rate)


def _times(price: float, rows: int = 1) -> StepTimes:
    times = StepTimes(2.5)
    times.record(1.0, num_decoding=rows, num_prompt_tokens=0, num_drafts=0)
    times.record(1.0 + price / rows, num_decoding=rows, num_prompt_tokens=0, num_drafts=1)
    return times


def _sequence(max_tokens: int = 20) -> Sequence:
    return make_sequence([1, 2, 3, 4, 5, 6, 1, 2, 3], SamplingParams(max_tokens=max_tokens))


def test_draft_is_as_long_as_it_pays() -> None:
    sequence = _sequence()
    assert Drafter(_times(0.12), 8).draft([sequence], 30, 30) == {sequence: [4, 5]}


def test_draft_is_what_a_structured_output_forces() -> None:
    vocabulary = Vocabulary(byte_tokenizer())
    structured = StructuredOutput("regex", "[xy]abcdef")
    sequence = _sequence(6)
    grammar = GrammarCompiler(vocabulary, 257, [0]).start(structured)
    sequence.logits_processor = LogitsProcessor(sequence.params, [], [0], grammar)
    drafter = Drafter(_times(0.5), 4)
    # Before the choice of x or y nothing is forced, and a guess is not worth its price.
    assert drafter.draft([sequence], 30, 30) == {}
    [x] = vocabulary.tokenizer.encode("x").ids
    sequence.logits_processor.accept(x)
    sequence.token_ids.append(x)
    assert drafter.draft([sequence], 30, 30) == {sequence: vocabulary.tokenizer.encode("abcd").ids}
    assert drafter.draft([sequence], 2, 30) == {sequence: vocabulary.tokenizer.encode("ab").ids}
    sequence.token_ids += vocabulary.tokenizer.encode("abc").ids
    assert drafter.draft([sequence], 30, 30) == {sequence: vocabulary.tokenizer.encode("a").ids}


@pytest.mark.parametrize(
    ("longest", "budget", "widest", "max_tokens"),
    [(1, 30, 30, 20), (8, 1, 30, 20), (8, 30, 1, 20), (8, 30, 30, 2)],
)
def test_draft_keeps_every_limit(longest: int, budget: int, widest: int, max_tokens: int) -> None:
    sequence = _sequence(max_tokens)
    drafts = Drafter(_times(0.1), longest).draft([sequence], budget, widest)
    assert drafts == {sequence: [4]}


def test_draft_shares_the_budget_of_the_step() -> None:
    first, second, third = _sequence(), _sequence(), _sequence()
    drafts = Drafter(_times(0.2, rows=3), 8).draft([first, second, third], 3, 30)
    assert drafts == {first: [4, 5], second: [4]}


def test_draft_that_costs_a_token_is_never_made_until_its_price_is_doubted() -> None:
    times = _times(1.1)
    drafter = Drafter(times, 8)
    sequence = _sequence()
    assert drafter.draft([sequence], 30, 30) == {}
    assert sequence.draft_table is None, "nothing was looked up"
    for _ in range(1000):
        drafter.draft([sequence], 30, 30)
    assert drafter.draft([sequence], 30, 30) != {}
