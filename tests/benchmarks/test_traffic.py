import numpy as np
import pytest

from benchmarks.traffic import (
    ANSWER_TOKENS,
    PROMPT_TOKENS,
    Disturbance,
    Request,
    Summary,
    Timeline,
    burst,
    from_json,
    poisson_trace,
    to_json,
)


def trace(seed: int = 0, count: int = 2_000, rate: float = 4.0) -> list[Request]:
    return poisson_trace(np.random.default_rng(seed), count, rate, vocab_size=1_000)


def test_poisson_arrivals_have_the_rate_and_the_spread_of_a_poisson_process() -> None:
    gaps = np.diff([request.arrival for request in trace()])
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(0.25, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)  # exponential


def test_poisson_trace_starts_at_once_and_is_the_same_for_the_same_seed() -> None:
    assert trace()[0].arrival == 0.0
    assert trace(seed=1, count=5) == trace(seed=1, count=5) != trace(seed=2, count=5)


def test_poisson_trace_has_ragged_lengths_within_its_bounds() -> None:
    prompts = [len(request.prompt) for request in trace()]
    answers = [request.tokens for request in trace()]
    for values, bounds in ((prompts, PROMPT_TOKENS), (answers, ANSWER_TOKENS)):
        assert bounds[0] <= min(values) < 1.1 * bounds[0]
        assert 0.9 * bounds[1] < max(values) <= bounds[1]
    # Log-uniform: half of the values lie below the geometric mean.
    assert np.median(answers) == pytest.approx(64, rel=0.1)


def test_traces_hold_no_control_tokens_and_none_that_the_model_lacks() -> None:
    tokens = {token for request in trace(count=50) for token in request.prompt}
    assert min(tokens) >= 3
    assert max(tokens) < 1_000


def test_burst_is_equal_requests_at_once() -> None:
    requests = burst(np.random.default_rng(0), 3, 5, 7, vocab_size=100)
    assert [(request.arrival, len(request.prompt), request.tokens) for request in requests] == [
        (0.0, 5, 7)
    ] * 3
    assert requests[0].prompt != requests[1].prompt


def test_a_trace_survives_the_way_to_another_process() -> None:
    assert from_json(to_json(trace(count=3))) == trace(count=3)


def test_summary_counts_from_the_first_start_to_the_last_token() -> None:
    summary = Summary.of(
        [
            Timeline(sent=1.0, tokens=3, token_times=[1.5, 1.6, 1.7]),
            Timeline(sent=2.0, tokens=2, token_times=[2.1, 3.0]),
        ]
    )
    assert summary.tokens_per_second == pytest.approx(5 / 2)
    assert summary.ttft_p50 == pytest.approx(0.3)
    assert summary.ttft_p99 == pytest.approx(0.496)
    assert summary.inter_token_p50 == pytest.approx(0.1)
    assert summary.inter_token_p99 == pytest.approx(0.884)


def test_tokens_that_came_together_have_no_gap_between_them() -> None:
    together = Timeline(sent=0.0, tokens=4, token_times=[1.0, 1.0, 1.0, 3.0])
    assert Summary.of([together]).inter_token_p50 == 2.0


STREAM = Timeline(sent=0.0, tokens=6, token_times=[0.5, 0.6, 0.7, 1.2, 1.9, 2.0])


def test_disturbance_compares_gaps_before_with_those_that_overlap_the_long_prompt() -> None:
    # Sent at 1.0, answered at 1.8: the gaps 0.7-1.2 and 1.2-1.9 overlap that.
    seen = Disturbance.of([STREAM], Timeline(sent=1.0, tokens=1, token_times=[1.8]))
    assert seen.median_before == pytest.approx(0.1)
    assert seen.p99_during == pytest.approx(0.698)
    assert seen.ttft == pytest.approx(0.8)


@pytest.mark.parametrize(("sent", "answered"), [(0.4, 1.0), (1.0, 2.0)])
def test_disturbance_needs_streams_that_run_all_the_while(sent: float, answered: float) -> None:
    with pytest.raises(RuntimeError, match="must run before, while and after"):
        Disturbance.of([STREAM], Timeline(sent=sent, tokens=1, token_times=[answered]))
