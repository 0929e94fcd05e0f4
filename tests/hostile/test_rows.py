"""What is one row's ends that row alone, whatever its parameters are and whatever is raised."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from everloop.errors import DataError, EngineError
from serving.engine import row_sampler
from serving.engine.config import EngineConfig
from serving.engine.detokenizer import Detokenizer
from serving.engine.llm_engine import LLMEngine
from serving.engine.logits_processor import LogitsProcessor
from serving.engine.row_sampler import sample_rows
from serving.engine.sampling_params import SamplingParams, StructuredOutput
from serving.engine.scheduler import ScheduledRow
from serving.engine.sequence import RequestOutput, Sequence
from serving.engine.vocabulary import Vocabulary

PROMPT = [9, 8, 7, 6, 5]
VOCAB_SIZE = 64
NO_TEXT = Vocabulary(Tokenizer(models.BPE(vocab={}, merges=[])))
HELD = SamplingParams(
    max_tokens=6,
    temperature=0.0,
    ignore_eos=True,
    structured=StructuredOutput("regex", "(abcdef)+"),
)


class Panic(BaseException):
    """As PyO3's, which is no Exception."""


FAULTS: list[BaseException] = [IndexError("0"), MemoryError(), RecursionError(), Panic("in Rust")]


def edges(kind: type[np.floating[Any]]) -> list[float]:
    """The values of a float format where it begins, where its precision ends and where it ends."""
    info = np.finfo(kind)
    found = [info.tiny, info.smallest_subnormal, info.max, info.eps, info.epsneg]
    values = [float(value) for value in found]
    return [*values, *(math.nextafter(v, 0) for v in values), *(1 / v for v in values if 1 / v)]


EDGES = sorted(
    {
        value * sign
        for kind in (np.float16, np.float32, np.float64)
        for edge in edges(kind)
        for value in (edge, 1 - edge, 1 + edge)
        for sign in (1, -1)
    }
    | {1e-300, -0.0, 1e-5, 1e-6, 0.5, 2.0, 10.0, 100.0, math.inf, -math.inf, math.nan}
)
COUNTS = [0, 1, 2, 8, 20, 21, 63, 64, 65, 2**31, 2**63, 2**64, 10**400, -1, -(2**63)]
FIELDS = ("temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty")
CANDIDATES: dict[str, list[Any]] = {
    **dict.fromkeys((*FIELDS, "presence_penalty"), EDGES),
    **dict.fromkeys(("top_k", "seed", "logprobs", "min_tokens"), COUNTS),
    "logit_bias": [{token: value} for value in EDGES for token in (0, 5, 63)],
}


def accepted(name: str) -> list[Any]:
    """The extremes that a parameter takes; of the others each is refused in a sentence."""
    found = []
    for value in CANDIDATES[name]:
        try:
            SamplingParams(max_tokens=8, **{name: value})
        except DataError as error:
            assert name in str(error)
        else:
            found.append(value)
    return found


def choice(values: list[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, len(values) - 1).map(values.__getitem__)


PARAMETERS = st.fixed_dictionaries(
    {}, optional={name: choice(accepted(name)) for name in CANDIDATES}
)
LOGITS = st.sampled_from([1.0, 30.0, 1e4, 1e-40, float(np.finfo(np.float32).max)])


def row(params: SamplingParams, name: str) -> ScheduledRow:
    """A row whose answer has two tokens and gets its third."""
    processor = LogitsProcessor(params, PROMPT, [0]) if LogitsProcessor.is_needed(params) else None
    seed = 3 if params.seed is None else params.seed
    sequence = Sequence(name, [*PROMPT, 5, 11], params, seed, Detokenizer(NO_TEXT), 0.0)
    sequence.num_prompt_tokens, sequence.num_computed_tokens = len(PROMPT), len(PROMPT) + 1
    sequence.logits_processor = processor
    for token_id in (5, 11) if processor else ():
        processor.accept(token_id)
    return ScheduledRow(sequence, [11], 1)


@settings(max_examples=400, deadline=None)
@given(parameters=PARAMETERS, size=LOGITS, seed=st.integers(0, 99))
def test_numbers_at_the_edges_of_every_float_format_choose_a_token(
    parameters: dict[str, Any], size: float, seed: int
) -> None:
    hostile = SamplingParams(max_tokens=8, **parameters)
    logits = np.random.default_rng(seed).uniform(-size, size, (3, VOCAB_SIZE)).astype(np.float32)
    others = SamplingParams(max_tokens=8, temperature=0.7, seed=1, repetition_penalty=1.3)
    with np.errstate(over="ignore", under="ignore"):
        expected = sample_rows([row(others, "a"), row(others, "b")], logits[::2].copy())
        first, middle, last = sample_rows(
            [row(others, "a"), row(hostile, "hostile"), row(others, "b")], logits.copy()
        )
    assert [first, last] == expected
    assert middle.error is None
    (token,) = middle.token_ids
    assert 0 <= token < VOCAB_SIZE


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LLMEngine:
    from tests.tiny_model import make_tiny_version

    folder = make_tiny_version(tmp_path_factory.mktemp("rows"), embeddings=True, seed=0)
    config = EngineConfig(
        num_threads=1, max_num_seqs=8, max_num_batched_tokens=64, speculation="on", wide_steps="off"
    )
    return LLMEngine.load(folder, config)


@pytest.fixture
def engine(loaded: LLMEngine) -> Iterator[LLMEngine]:
    yield loaded
    loaded.reset()


def finish(engine: LLMEngine) -> dict[str, list[RequestOutput]]:
    outputs: dict[str, list[RequestOutput]] = {}
    while engine.has_unfinished:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
    return outputs


def tokens(outputs: list[RequestOutput]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def raising(fault: BaseException) -> Callable[..., Any]:
    def fail(*args: object, **kwargs: object) -> None:
        raise fault

    return fail


# Where something of one row runs: what stands there is made to raise for the hostile row alone.
PLACES: dict[str, Callable[[Sequence, BaseException], None]] = {
    "penalties": lambda one, fault: setattr(one, "logits_processor", _Failing(fault, "apply")),
    "grammar": lambda one, fault: setattr(
        one.logits_processor, "_grammar", _Failing(fault, "mask")
    ),
    "grammar that goes on": lambda one, fault: setattr(
        one.logits_processor, "_grammar", _Failing(fault, "accept")
    ),
    "grammar that is asked for its end": lambda one, fault: setattr(
        one.logits_processor, "_grammar", _Failing(fault, "is_complete")
    ),
    "forced tokens": lambda one, fault: setattr(
        one.logits_processor, "_grammar", _Failing(fault, "forced_token_ids")
    ),
    "detokenizer": lambda one, fault: setattr(one, "detokenizer", _Failing(fault, "add")),
    "draft table": lambda one, fault: setattr(one, "draft_table", _Failing(fault, "read")),
}


class _Failing:
    """A part of a row that works but for one of its members."""

    is_complete = is_stopped = has_draft = False
    hit_rate = 0.0

    def __init__(self, fault: BaseException, member: str) -> None:
        self._fault, self._member = fault, member

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        if name == self._member:
            if name == "is_complete":
                raise self._fault
            return raising(self._fault)
        if name in ("is_complete", "is_stopped", "has_draft", "hit_rate"):
            return object.__getattribute__(self, name)
        return lambda *args, **kwargs: [] if name == "forced_token_ids" else None


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("place", PLACES)
def test_whatever_a_part_of_a_row_raises_ends_that_row_alone(
    engine: LLMEngine, place: str, fault: BaseException
) -> None:
    greedy = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
    alone = tokens_alone(engine, greedy)
    engine._scheduler._drafter._times.draft_prices = lambda rows, longest: [0.01] * longest
    for name in ("a", "b"):
        engine.add_request(name, PROMPT, greedy)
    engine.add_request("hostile", PROMPT, greedy if place == "draft table" else HELD)
    engine.add_request("c", PROMPT, greedy)
    PLACES[place](engine._requests.get("hostile"), fault)
    outputs = finish(engine)
    assert outputs["hostile"][-1].finish_reason == "error"
    assert isinstance(outputs["hostile"][-1].error, EngineError)
    for name in ("a", "b", "c"):
        assert tokens(outputs[name]) == alone
        assert outputs[name][-1].finish_reason == "length"


def tokens_alone(engine: LLMEngine, params: SamplingParams) -> list[int]:
    return list(engine.generate([PROMPT], params)[0].token_ids)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_embedding_that_cannot_be_summed_ends_alone(
    engine: LLMEngine, fault: BaseException
) -> None:
    for name in ("a", "hostile", "b"):
        engine.add_embedding(name, PROMPT)
    engine._requests.get("hostile").hidden_sum = _Sum(fault)
    outputs = finish(engine)
    assert outputs["hostile"][-1].finish_reason == "error"
    assert all(outputs[name][-1].embedding is not None for name in ("a", "b"))


class _Sum:
    def __init__(self, fault: BaseException) -> None:
        self._fault = fault

    def __iadd__(self, other: object) -> "_Sum":
        raise self._fault


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), SystemExit()])
def test_end_of_the_process_is_no_fault_of_a_row(
    engine: LLMEngine, interrupt: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_sampler, "_sample", raising(interrupt))
    engine.add_request("a", PROMPT, SamplingParams(max_tokens=2))
    with pytest.raises(type(interrupt)):
        finish(engine)
    monkeypatch.undo()
    finish(engine)
