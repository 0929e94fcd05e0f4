"""Every family through the whole engine: what it answers is what transformers' `generate` does."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine
from serving.engine.sampling_params import SamplingParams
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
