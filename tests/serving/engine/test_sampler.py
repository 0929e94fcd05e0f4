"""Which token a sequence gets, whatever else is in the batch."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, models

from everloop.errors import EngineError
from serving.engine.detokenizer import Detokenizer
from serving.engine.logits_processor import LogitsProcessor
from serving.engine.row_sampler import SampledRow, sample_rows
from serving.engine.sampling_params import SamplingParams
from serving.engine.scheduler import ScheduledRow
from serving.engine.sequence import Sequence
from serving.engine.vocabulary import Vocabulary

VOCABULARY = Vocabulary(Tokenizer(models.BPE(vocab={}, merges=[])))
SETTINGS = [
    {"temperature": 0.0},
    {},
    {"top_p": 0.8, "min_p": 0.01},
    {"top_k": 9, "temperature": 1.4},
    {"temperature": 0.0, "repetition_penalty": 1.5, "logprobs": 2},
    {"frequency_penalty": 1.5, "presence_penalty": 0.5, "logit_bias": {7: 50.0}},
    {"min_tokens": 5, "stop_token_ids": (3,), "logprobs": 0},
]


def _sequence(seed: int = 0, vocab_size: int = 1000, **settings: object) -> Sequence:
    random = np.random.default_rng(seed)
    prompt = random.integers(0, vocab_size, 10).tolist()
    params = SamplingParams(**{"max_tokens": 99} | settings)
    sequence = Sequence(str(seed), prompt, params, seed, Detokenizer(VOCABULARY), 0.0)
    if LogitsProcessor.is_needed(params):
        sequence.logits_processor = LogitsProcessor(params, prompt, [0, 2])
    return sequence


def _logits(rows: int, vocab_size: int = 1000, seed: int = 0) -> NDArray[np.float32]:
    normal = np.random.default_rng(seed).standard_normal((rows, vocab_size))
    return (normal * 3).astype(np.float32)


def _step(sequence: Sequence, drafts: list[int] | None = None) -> ScheduledRow:
    """A row of one pending token with its drafts."""
    drafts = drafts or []
    sequence.num_computed_tokens = len(sequence.token_ids) - 1
    return ScheduledRow(sequence, [sequence.token_ids[-1], *drafts], 1 + len(drafts))


def test_greedy_takes_the_largest_logit() -> None:
    logits = _logits(1)
    expected = int(logits.argmax())
    assert sample_rows([_step(_sequence(temperature=0.0))], logits)[0].token_ids == [expected]


@pytest.mark.parametrize("seed", range(5))
def test_a_row_does_not_depend_on_its_batch_mates(seed: int) -> None:
    logits = _logits(8, 6000, seed)
    settings = [SETTINGS[row % len(SETTINGS)] for row in range(8)]

    def steps() -> list[ScheduledRow]:
        return [_step(_sequence(i, 6000, **each)) for i, each in enumerate(settings)]

    together = sample_rows(steps(), logits.copy())
    alone = [sample_rows([row], logits[i : i + 1].copy())[0] for i, row in enumerate(steps())]
    assert together == alone


@pytest.mark.parametrize("settings", SETTINGS)
def test_drafts_change_how_many_tokens_come_never_which(settings: dict[str, object]) -> None:
    logits = _logits(12, seed=5)
    logits[:, 0] += 9  # an end token wins often
    slow = _sequence(1, **settings)
    expected = []
    for row in range(12):
        [sampled] = sample_rows([_step(slow)], logits[row : row + 1].copy())
        slow.token_ids += sampled.token_ids
        expected.append(sampled)
    tokens = [sampled.token_ids[0] for sampled in expected]
    fast = _sequence(1, **settings)
    for size in (3, 0, 4, 1):
        at = fast.num_completion_tokens
        drafts = tokens[at : at + size]
        rows = logits[at : at + size + 1].copy()
        [sampled] = sample_rows([_step(fast, drafts)], rows)
        assert sampled.token_ids == tokens[at : at + size + 1]
        assert sampled.num_accepted == size
        wanted = [each for one in expected[at : at + size + 1] for each in one.logprobs]
        assert list(sampled.logprobs) == wanted
        fast.token_ids += sampled.token_ids
    [sampled] = sample_rows(
        [_step(_sequence(1, **settings), [tokens[0] + 1, 5])], logits[:3].copy()
    )
    assert sampled.token_ids == tokens[:1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_fail_their_own_row(value: float) -> None:
    logits = _logits(2, 10)
    logits[1, 4] = value
    good, bad = sample_rows([_step(_sequence(0, 10)), _step(_sequence(1, 10))], logits)
    assert good.error is None
    assert len(good.token_ids) == 1
    assert isinstance(bad.error, EngineError)
    assert str(bad.error) == "the model's logits for request 1 are not finite."
    assert bad.token_ids == []


def test_a_row_of_nothing_but_end_tokens_fails_alone() -> None:
    logits = np.full((1, 4), -np.inf, np.float32)
    logits[0, [0, 2]] = 1.0
    [sampled] = sample_rows([_step(_sequence(0, 4, min_tokens=2))], logits)
    assert str(sampled.error) == "the parameters of request 0 allow no token."


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {}, {"top_k": 3}, {"top_p": 0.5}])
def test_few_allowed_tokens_are_drawn_as_from_a_masked_row(settings: dict[str, Any]) -> None:
    class Few:
        """Allows three tokens, by name or by masking all others."""

        is_complete = False

        def __init__(self, by_name: bool) -> None:
            self.by_name = by_name

        def forced_token_ids(self) -> list[int]:
            return []

        def mask(self, logits: Any, forbidden: Any) -> Any:
            tokens = np.array([5, 30, 700])
            if self.by_name:
                return tokens
            kept = logits[tokens]
            logits[:] = -np.inf
            logits[tokens] = kept
            return None

        def accept(self, token_id: int) -> None:
            pass

    def drawn(by_name: bool) -> NDArray[np.int64]:
        tokens = []
        for seed in range(600):
            sequence = _sequence(seed, repetition_penalty=1.2, logprobs=1, **settings)
            sequence.logits_processor = LogitsProcessor(sequence.params, [5], [], Few(by_name))
            [sampled] = sample_rows([_step(sequence)], logits.copy())
            tokens += sampled.token_ids
            exact = logits[0] - np.logaddexp.reduce(logits[0].astype(np.float64))
            assert sampled.logprobs[0].logprob == pytest.approx(exact[tokens[-1]], abs=1e-5)
        return np.bincount(tokens, minlength=1000)[[5, 30, 700]]

    logits = _logits(1) / 3
    by_name, by_mask = drawn(True), drawn(False)
    assert by_name.sum() == by_mask.sum() == 600
    assert (np.abs(by_name - by_mask) <= 5 * np.sqrt(300)).all()


def test_a_grammar_that_allows_nothing_fails_its_own_row() -> None:
    class Nothing:
        is_complete = False

        def mask(self, logits: Any, forbidden: Any) -> Any:
            return np.array([], np.intp)

    sequence = _sequence(1)
    sequence.logits_processor = LogitsProcessor(sequence.params, [], [], Nothing())
    [sampled] = sample_rows([_step(sequence)], _logits(1))
    assert str(sampled.error) == "the parameters of request 1 allow no token."


def test_a_plain_greedy_step_leaves_the_logits_as_they_are() -> None:
    logits = _logits(3)
    before = logits.copy()
    rows = [_step(_sequence(i, temperature=0.0)) for i in range(3)]
    expected = [SampledRow([int(token)]) for token in logits.argmax(axis=1)]
    assert sample_rows(rows, logits) == expected
    assert (logits == before).all()
