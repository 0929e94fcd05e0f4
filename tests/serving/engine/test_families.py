"""Every family through the whole engine: what it answers is what transformers' `generate` does."""

import random
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine
from serving.engine.sampling_params import SamplingParams
from serving.engine.sequence import Sequence
from serving.engine.speculation import Drafter
from tests.serving.engine.conftest import RecordingObserver
from tests.tiny_model import FAMILIES, make_tiny_version
from training.pretrained import load_model

GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
# More than there are slots, shorter and longer than a chunk of 32.
LENGTHS = (3, 40, 17, 1, 70, 33)


# The others differ in what the parity of the graph proves: names, norms, scales.
QUICK = ("qwen3", "mistral", "gpt2", "lstm", "gru")
PARAMS = [
    family if family in QUICK else pytest.param(family, marks=pytest.mark.slow)
    for family in FAMILIES
]


@pytest.fixture(scope="module", params=PARAMS)
def version(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny version of one family."""
    folder = tmp_path_factory.mktemp(request.param)
    return make_tiny_version(folder, family=request.param)


@pytest.fixture
def model(version: Path) -> PreTrainedModel:
    """The torch model of the version's checkpoint."""
    return load_model(next(version.parent.glob("checkpoint-*")), attn_implementation="eager")


@pytest.fixture
def engine(version: Path, engine_config: EngineConfig) -> LLMEngine:
    return LLMEngine.load(version, engine_config)


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, 259, (count,), generator=generator).tolist() for count in LENGTHS]


def generate(model: PreTrainedModel, prompt: list[int]) -> tuple[int, ...]:
    ids = torch.tensor([prompt])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=GREEDY.max_tokens,
        do_sample=False,
        eos_token_id=None,
    )
    return tuple(output[0, len(prompt) :].tolist())


def test_engine_answers_as_generate_does(engine: LLMEngine, model: PreTrainedModel) -> None:
    results = engine.generate(prompts(), GREEDY)

    assert [result.token_ids for result in results] == [
        generate(model, prompt) for prompt in prompts()
    ]


def test_engine_goes_on_from_a_cached_prefix(engine: LLMEngine, model: PreTrainedModel) -> None:
    prompt = prompts()[1]
    answer = engine.generate([prompt], GREEDY)[0].token_ids
    longer = [*prompt, *answer, 70, 71]

    assert engine.generate([longer], GREEDY)[0].token_ids == generate(model, longer)


def test_engine_takes_another_turn_after_a_shared_beginning(
    engine: LLMEngine, model: PreTrainedModel
) -> None:
    prompt = prompts()[4]
    engine.generate([prompt], GREEDY)
    other = [*prompt[:50], 80, 81, 82]

    assert engine.generate([other], GREEDY)[0].token_ids == generate(model, other)


class _Guesses(Drafter):
    """Drafts the coming tokens of known answers, now and then with a wrong one among them."""

    def __init__(self, answers: dict[str, tuple[int, ...]]) -> None:
        self._answers = answers
        self._random = random.Random(2)

    def draft(
        self, sequences: list[Sequence], budget: int, widest: int
    ) -> dict[Sequence, list[int]]:
        drafts = {}
        for sequence in sequences:
            done = sequence.num_completion_tokens
            longest = min(4, budget, widest, sequence.params.max_tokens - done - 1)
            if longest > 0:
                draft = list(self._answers[sequence.seq_id][done : done + longest])
                if self._random.random() < 0.5:
                    draft[self._random.randrange(longest)] = self._random.randrange(3, 259)
                drafts[sequence] = draft
                budget -= longest
        return drafts


def test_engine_answers_as_generate_does_in_every_order(
    version: Path, model: PreTrainedModel, engine_config: EngineConfig, observer: RecordingObserver
) -> None:
    """Rows join, leave, come in chunks, share beginnings, draft and forget, in dirty slots."""
    config = engine_config.model_copy(
        update={"max_num_batched_tokens": 24, "speculation": "on", "max_num_seqs": 3}
    )
    engine = LLMEngine.load(version, config, observer)
    state, drafter = engine._model_runner.state, engine._scheduler._drafter
    assert (drafter is None) == state.is_recurrent, "a recurrent state cannot be taken back"
    for array in state.arrays:
        array.fill(7.7)
    random_ = random.Random(1)
    shared = random_.choices(range(3, 259), k=50)
    waiting = {
        str(number): shared[: random_.randint(1, 50)] + random_.choices(range(3, 259), k=number)
        for number in range(1, 10)
    }
    answers = {name: generate(model, prompt) for name, prompt in waiting.items()}
    if drafter is not None:
        engine._scheduler._drafter = _Guesses(answers)
    found: dict[str, tuple[int, ...]] = dict.fromkeys(waiting, ())
    while waiting or engine.has_unfinished:
        if waiting and random_.random() < 0.3:
            engine.add_request(*waiting.popitem(), GREEDY)
        if random_.random() < 0.03 and engine._requests:
            engine.abort_request(random_.choice([one.seq_id for one in engine._requests]))
        for output in engine.step():
            found[output.request_id] += output.token_ids
    assert all(found[name] == answers[name][: len(found[name])] for name in answers)
    reasons = [reason for reason, *_ in observer.named("finished")]
    assert (len(reasons), set(reasons)) == (9, {"abort", "length"})
    if drafter is not None:
        assert any(cached for _, cached in observer.named("scheduled"))
        drafts, accepted = map(sum, zip(*observer.named("drafted"), strict=True))
        assert 0 < accepted < drafts
