import math

import pytest

from serving.engine.llm_engine import LLMEngine
from serving.engine.sampling_params import SamplingParams
from tests.serving.engine.test_llm_engine import Load


@pytest.mark.parametrize(("slots", "budget"), [(1, 1), (1, 32), (2, 2), (4, 32), (4, 200)])
def test_warm_up_fits_into_every_limit(load: Load, slots: int, budget: int) -> None:
    engine: LLMEngine = load(max_num_seqs=slots, max_num_batched_tokens=budget)
    [result] = engine.generate([[5, 6, 7]], SamplingParams(max_tokens=2, ignore_eos=True))
    assert len(result.token_ids) == 2


def test_warm_up_prices_drafts_before_the_first_request(load: Load) -> None:
    prices = load()._times.draft_prices(1, 8)
    assert len(prices) == 8
    assert all(math.isfinite(price) for price in prices)
