import math
import random

import pytest

from serving.engine.step_times import MediansBySize, RunningMedian, StepTimes


def test_running_median_follows_the_middle_and_not_the_outliers() -> None:
    random_ = random.Random(0)
    median = RunningMedian(5.0)
    for _ in range(400):
        median.add(50.0 if random_.random() < 0.2 else random_.uniform(0.9, 1.1))
    assert median.value == pytest.approx(1.0, abs=0.12)


def test_running_median_leaves_a_wrong_first_value_quickly() -> None:
    median = RunningMedian(10.0)
    for _ in range(15):
        median.add(1.0)
    assert median.value < 4


def test_running_median_of_nothing_can_grow() -> None:
    median = RunningMedian(0.0)
    for _ in range(400):
        median.add(1.0)
    assert median.value == pytest.approx(1.0)


def test_medians_of_an_unknown_size_are_those_of_the_nearest() -> None:
    medians = MediansBySize()
    assert medians.get(3) is None
    medians.add(1, 10.0)
    medians.add(8, 20.0)
    assert [medians.get(size) for size in (1, 3, 6, 8, 30)] == [10.0, 10.0, 20.0, 20.0, 20.0]


def test_medians_between_two_known_sizes_lie_on_a_line() -> None:
    medians = MediansBySize()
    assert medians.between(3) is None
    medians.add(1, 10.0)
    medians.add(8, 24.0)
    assert [medians.between(size) for size in (1, 3, 8, 30)] == [10.0, 14.0, 24.0, 24.0]


@pytest.fixture
def times() -> StepTimes:
    """Decode takes 10 ms a step, a prompt's token beside it 0.25 ms."""
    times = StepTimes(max_slowdown=2.5)
    times.record(0.010, num_decoding=4, num_prompt_tokens=0, num_drafts=0)
    times.record(0.015, num_decoding=4, num_prompt_tokens=20, num_drafts=0)
    return times


def test_max_prompt_tokens_fill_the_slowdown(times: StepTimes) -> None:
    # 15 ms more than the step's 10 ms, at 0.25 ms a token.
    assert times.max_prompt_tokens(4) == 60


def test_max_prompt_tokens_are_unlimited_while_nobody_decodes(times: StepTimes) -> None:
    assert times.max_prompt_tokens(0) is None


def test_max_prompt_tokens_never_stop_a_prompt(times: StepTimes) -> None:
    for _ in range(200):
        times.record(5.0, num_decoding=4, num_prompt_tokens=20, num_drafts=0)
    assert times.max_prompt_tokens(4) == 4


def test_max_prompt_tokens_start_small() -> None:
    assert StepTimes(2.5).max_prompt_tokens(1) == 16


def test_draft_prices_are_in_tokens_of_the_same_time(times: StepTimes) -> None:
    times.record(0.014, num_decoding=4, num_prompt_tokens=0, num_drafts=1)
    times.record(0.016, num_decoding=4, num_prompt_tokens=0, num_drafts=4)
    # The first takes 4 ms, in which four rows at 10 ms a step give 1.6 tokens; four 1.5 ms each.
    assert times.draft_prices(4, 5) == pytest.approx([1.6, 1.6, 0.6, 0.6, 0.6])


def test_draft_prices_before_any_draft_are_those_of_a_prompts_token() -> None:
    times = StepTimes(2.5)
    times.record(0.010, num_decoding=4, num_prompt_tokens=0, num_drafts=0)
    assert times.draft_prices(4, 2) == [math.inf, math.inf]
    times.record(0.050, num_decoding=0, num_prompt_tokens=100, num_drafts=0)
    assert times.draft_prices(4, 2) == pytest.approx([0.2, 0.2])


def test_draft_prices_before_any_decode_are_infinite() -> None:
    assert StepTimes(2.5).draft_prices(1, 2) == [math.inf, math.inf]


def test_draft_prices_that_nobody_pays_fall(times: StepTimes) -> None:
    times.record(0.030, num_decoding=4, num_prompt_tokens=0, num_drafts=2)
    assert times.draft_prices(4, 2) == pytest.approx([4.0, 4.0])
    for _ in range(1000):
        times.doubt_draft_prices(4)
    assert max(times.draft_prices(4, 2)) < 1
