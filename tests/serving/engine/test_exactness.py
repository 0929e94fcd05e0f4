"""Answers and their logprobs are equal to the last bit in company, where that was measured."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from everloop.machine import instruction_sets
from serving.engine.config import EngineConfig
from serving.engine.exactness import is_exact_in_chunks
from serving.engine.llm_engine import LLMEngine
from serving.engine.sampling_params import SamplingParams
from serving.engine.sequence import TokenLogprobs
from tests.planted_version import depend_on_company
from tests.tiny_model import make_tiny_version

LENGTHS = (1, 2, 3, 19, 40, 33, 64, 65, 90, 7, 31, 32)
PROMPTS = [np.random.default_rng(size).integers(3, 259, size).tolist() for size in LENGTHS]
VERSIONS = [
    ("qwen3", "fp32", "fp32"),
    ("qwen3", "int8", "fp32"),
    ("qwen3", "int8", "int8"),
    ("qwen3", "int4", "fp32"),
    ("qwen3", "int4", "int8"),
    ("mistral", "int8", "int8"),
    ("gpt2", "int8", "fp32"),
    ("gemma2", "int8", "int8"),
    ("lstm", "int8", "fp32"),
    ("gru", "int8", "fp32"),
]

# By precision, the instruction set with which every version was seen to keep the promise: there a
# measured "no" is a fault. In int4 AVX2's kernels were seen to multiply an odd row otherwise.
KEPT_WITH = {"fp32": "AVX2", "int8": "AVX2", "int4": "AVX512VNNI"}

Answer = tuple[list[int], list[TokenLogprobs]]


def params(seed: int) -> SamplingParams:
    return SamplingParams(
        max_tokens=4 + seed % 9, temperature=1.0, top_p=0.95, seed=seed, ignore_eos=True, logprobs=3
    )


def answers(engine: LLMEngine, seeds: list[int], joins: list[int]) -> dict[int, Answer]:
    """Answer the prompts, each from a step on; by seed, which is also the prompt's number."""
    found: dict[int, Answer] = {seed: ([], []) for seed in seeds}
    step = 0
    while engine.has_unfinished or step <= max(joins):
        for seed, join in zip(seeds, joins, strict=True):
            if join == step:
                engine.add_request(str(seed), PROMPTS[seed], params(seed))
        for output in engine.step():
            found[int(output.request_id)][0].extend(output.token_ids)
            found[int(output.request_id)][1].extend(output.logprobs)
        step += 1
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("family", "precision", "cache"), VERSIONS)
def test_answers_do_not_depend_on_what_else_is_in_the_batch(
    tmp_path: Path, engine_config: EngineConfig, family: str, precision: str, cache: str
) -> None:
    version = make_tiny_version(tmp_path, family=family, precision=precision, cache=cache)
    if not LLMEngine.load(version, engine_config).batch_invariant:
        assert KEPT_WITH[precision] not in instruction_sets()
        pytest.skip("measured on this processor: logits of this version depend on their company")
    seeds = list(range(len(PROMPTS)))
    alone: dict[int, Answer] = {}
    for seed in seeds:
        alone |= answers(LLMEngine.load(version, engine_config), [seed], [0])
    for shuffle in range(6):
        random = np.random.default_rng(shuffle)
        joins = random.integers(0, 12, len(seeds)).tolist()
        config = engine_config.model_copy(
            update={"max_num_batched_tokens": int(random.integers(8, 48)), "num_threads": 2}
        )
        assert answers(LLMEngine.load(version, config), seeds, joins) == alone


def test_a_version_that_depends_on_company_is_found_out(
    tiny_version: Path, tmp_path: Path, engine_config: EngineConfig
) -> None:
    version = shutil.copytree(tiny_version, tmp_path / "planted")
    depend_on_company(version)
    engine = LLMEngine.load(version, engine_config)
    assert engine.batch_invariant is False
    assert not is_exact_in_chunks(engine._model_runner, engine._factory, engine_config)
    alone = answers(LLMEngine.load(version, engine_config), [3], [0])
    assert answers(engine, [3, 4], [0, 0])[3] != alone[3]


@pytest.mark.parametrize(
    ("precision", "cache", "block_size", "expected"),
    [
        ("int8", "int8", 32, True),
        ("int4", "int8", 32, True),
        ("int8", "fp32", 32, False),  # attention sums otherwise for a single query
        ("int4", "int8", 64, False),  # another kernel multiplies the odd row
    ],
)
def test_exactness_is_measured(
    tmp_path: Path,
    engine_config: EngineConfig,
    precision: str,
    cache: str,
    block_size: int,
    expected: bool,
) -> None:
    """What is expected was seen with AVX512VNNI, the first also with AVX2."""
    known_with = "AVX512VNNI" if precision == "int4" or not expected else KEPT_WITH[precision]
    if known_with not in instruction_sets():
        pytest.skip(f"known of processors with {known_with} only")
    version = make_tiny_version(
        tmp_path,
        precision=precision,
        cache=cache,
        block_size=block_size,
        hidden_size=256,
        intermediate_size=256,
    )
    engine = LLMEngine.load(version, engine_config)
    found = is_exact_in_chunks(engine._model_runner, engine._factory, engine_config)
    assert found is expected
    if block_size == 64:
        assert engine.batch_invariant is False
