"""Model versions, engines and observers for the tests of the engine and of the API."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from serving.engine.config import EngineConfig
from serving.engine.detokenizer import Detokenizer
from serving.engine.llm_engine import LLMEngine
from serving.engine.sampling_params import SamplingParams
from serving.engine.sequence import Sequence
from serving.engine.vocabulary import Vocabulary

# What a step does must not depend on how long the steps before it took.
ONE_THREAD = EngineConfig(
    num_threads=1,
    max_num_seqs=4,
    max_num_batched_tokens=32,
    max_slowdown=1000,
    speculation="off",
    wide_steps="off",
)


class RecordingObserver:
    """Keeps every event of the engine as (name, *numbers).

    With the gate closed, the engine stands still in the step that gives a second token.
    """

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self.gate = threading.Event()
        self.gate.set()

    def step(self, model: str, seconds: float, batch_size: int) -> None:
        self.events.append(("step", batch_size))

    def load(self, model: str, running: int, waiting: int, cache_usage_ratio: float) -> None:
        self.events.append(("load", running, waiting, cache_usage_ratio))

    def scheduled(
        self, model: str, queue_seconds: float, prompt_tokens: int, cached_tokens: int
    ) -> None:
        self.events.append(("scheduled", prompt_tokens, cached_tokens))

    def first_token(self, model: str, ttft_seconds: float, prefill_seconds: float) -> None:
        self.events.append(("first_token", ttft_seconds >= prefill_seconds))

    def inter_token(self, model: str, seconds: float) -> None:
        self.events.append(("inter_token",))
        self.gate.wait(120)

    def drafted(self, model: str, draft_tokens: int, accepted_tokens: int) -> None:
        self.events.append(("drafted", draft_tokens, accepted_tokens))

    def finished(
        self,
        model: str,
        finish_reason: str,
        prompt_tokens: int,
        completion_tokens: int,
        decode_seconds: float,
    ) -> None:
        self.events.append(("finished", finish_reason, prompt_tokens, completion_tokens))

    def named(self, name: str) -> list[tuple[object, ...]]:
        return [event[1:] for event in self.events if event[0] == name]


_NO_VOCABULARY = Vocabulary(Tokenizer(models.BPE(vocab={}, merges=[])))


def make_sequence(
    token_ids: list[int],
    params: SamplingParams | None = None,
    *,
    name: str = "a",
    tenant: str = "",
    arrival_time: float = 0.0,
) -> Sequence:
    """A sequence whose tokens have no text."""
    params = params or SamplingParams(max_tokens=8)
    detokenizer = Detokenizer(_NO_VOCABULARY)
    return Sequence(name, token_ids, params, 0, detokenizer, arrival_time, tenant)


def byte_tokenizer(*pieces: str) -> Tokenizer:
    """Token 0 is `<|endoftext|>`, then one token per byte, then the pieces, as single tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate(["<|endoftext|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.add_tokens(list(pieces))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.fixture
def observer() -> RecordingObserver:
    return RecordingObserver()


@pytest.fixture(scope="session")
def tiny_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, 128 tokens of context, steps of 32 tokens per row, hidden states."""
    from tests.tiny_model import make_tiny_version

    return make_tiny_version(tmp_path_factory.mktemp("tiny"), embeddings=True, seed=0)


@pytest.fixture(scope="session")
def other_tiny_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other weights and another family under the same name."""
    from tests.tiny_model import make_tiny_version

    return make_tiny_version(tmp_path_factory.mktemp("tiny"), family="llama", seed=1)


@pytest.fixture(scope="session")
def engine_config() -> EngineConfig:
    """Four slots, steps of 32 tokens, one thread."""
    return ONE_THREAD


@pytest.fixture
def load(tiny_version: Path) -> Callable[..., LLMEngine]:
    """Load the tiny version with settings that differ from `engine_config`."""

    def load(observer: RecordingObserver | None = None, **settings: int | str) -> LLMEngine:
        config = ONE_THREAD.model_copy(update=settings)
        return LLMEngine.load(tiny_version, config, observer)

    return load
