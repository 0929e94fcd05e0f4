from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from everloop.errors import DataError
from feedback.gate import GateConfig, GateEvidence, Measured, judge

FAST = GateConfig(resamples=999)


def measured(
    scores: NDArray[np.float64],
    losses: NDArray[np.float64] | None = None,
    size_bytes: int = 1000,
    **latency_seconds: float,
) -> Measured:
    return Measured(
        scores=scores,
        losses=np.linspace(1.8, 2.2, 40) if losses is None else losses,
        size_bytes=size_bytes,
        latency_seconds=latency_seconds,
    )


def scores(rows: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(0.1, 0.6, rows)


def better(rows: int = 100, gain: float = 0.1) -> GateEvidence:
    """A candidate that is better by `gain` on average and forgets nothing."""
    before = scores(rows)
    after = np.clip(before + np.random.default_rng(1).normal(gain, 0.1, rows), 0, 1)
    return GateEvidence(
        champion=measured(before), candidate=measured(after), parity_ok=True, val_loss=2.0
    )


def with_losses(increase: NDArray[np.float64] | float) -> GateEvidence:
    evidence = better()
    losses = evidence.champion.losses + increase
    return replace(evidence, candidate=replace(evidence.candidate, losses=losses))


def test_better_candidate_is_promoted_with_its_numbers() -> None:
    verdict = judge(better(), FAST)
    assert verdict.verdict == "promote"
    assert verdict.reasons[0].startswith("quality on 100 held-out rows from ")
    numbers = verdict.numbers
    assert numbers["quality_gain"] == pytest.approx(
        numbers["quality_after"] - numbers["quality_before"]
    )
    assert numbers["ci95_low"] < numbers["quality_gain"] < numbers["ci95_high"]
    assert numbers["p_value"] == 0.001
    assert (numbers["rows"], numbers["windows"], numbers["forgetting"]) == (100.0, 40.0, 0.0)
    assert set(numbers) == {
        "quality_before", "quality_after", "quality_gain", "ci95_low", "ci95_high", "p_value",
        "gain_bound", "detectable_gain", "rows", "windows", "forgetting", "forgetting_low",
        "forgetting_high", "val_loss", "size_bytes_before", "size_bytes_after",
    }  # fmt: skip


def test_same_evidence_gives_the_same_verdict() -> None:
    assert judge(better(gain=0.02), FAST) == judge(better(gain=0.02), FAST)


def test_equal_candidate_is_rejected_once_a_gain_would_have_been_seen() -> None:
    evidence = better()
    verdict = judge(replace(evidence, candidate=evidence.champion), FAST)
    assert verdict.verdict == "reject"
    assert "no gain, though one of 0.000 would have been seen" in verdict.reasons[0]


def test_worse_candidate_is_rejected() -> None:
    verdict = judge(better(gain=-0.1), FAST)
    assert verdict.verdict == "reject"
    assert verdict.reasons[0].endswith("the candidate is worse")


def test_gain_within_chance_is_undecided_and_says_what_could_be_seen() -> None:
    rng = np.random.default_rng(3)
    before, after = rng.uniform(0, 1, 60), rng.uniform(0, 1, 60)
    evidence = replace(better(), champion=measured(before), candidate=measured(after))
    verdict = judge(evidence, FAST)
    assert verdict.verdict == "undecided"
    assert "80% power is reached at a gain of 0.1" in verdict.reasons[0]
    assert "0.05 matters" in verdict.reasons[0]


@pytest.mark.parametrize("rows", [0, 1, 2, 29])
def test_few_rows_are_undecided_however_good(rows: int) -> None:
    verdict = judge(better(rows, gain=0.3), FAST)
    assert verdict.verdict == "undecided"
    assert verdict.reasons[0].startswith(f"only {rows} held-out rows, at least 30 wanted: a gain")


def test_enough_rows_are_decided() -> None:
    assert judge(better(30, gain=0.3), FAST).verdict == "promote"


def test_forgetting_below_the_limit_passes() -> None:
    verdict = judge(with_losses(0.05), FAST)
    assert verdict.verdict == "promote"
    assert verdict.numbers["forgetting"] == pytest.approx(0.025)


def test_forgetting_above_the_limit_is_rejected() -> None:
    verdict = judge(with_losses(0.07), FAST)
    assert verdict.verdict == "reject"
    assert verdict.reasons[0].endswith("the limit is +3.00%: the candidate forgets")


def test_forgetting_that_cannot_be_ruled_out_is_undecided() -> None:
    noise = np.random.default_rng(4).normal(0.04, 0.3, 40)
    verdict = judge(with_losses(noise), FAST)
    assert verdict.verdict == "undecided"
    assert verdict.numbers["forgetting"] <= 0.03 < verdict.numbers["forgetting_high"]


def test_few_windows_are_undecided() -> None:
    evidence = better()
    few = np.full(15, 2.0)
    evidence = replace(
        evidence,
        champion=replace(evidence.champion, losses=few),
        candidate=replace(evidence.candidate, losses=few),
    )
    verdict = judge(evidence, FAST)
    assert verdict.verdict == "undecided"
    assert verdict.reasons[0].startswith("only 15 windows of the original validation data")


def test_loss_that_is_not_finite_is_rejected() -> None:
    verdict = judge(with_losses(float("nan")), FAST)
    assert verdict.verdict == "reject"
    assert "not finite" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"parity_ok": False}, "does not give what its checkpoint gives"),
        ({"val_loss": float("inf")}, "the export's validation loss is inf"),
    ],
)
def test_broken_export_is_rejected(changes: dict[str, object], reason: str) -> None:
    verdict = judge(replace(better(), **changes), FAST)
    assert verdict.verdict == "reject"
    assert reason in verdict.reasons[0]


@pytest.mark.parametrize(("size_bytes", "verdict"), [(1100, "promote"), (1101, "reject")])
def test_size_has_a_limit(size_bytes: int, verdict: str) -> None:
    evidence = better()
    larger = replace(evidence.candidate, size_bytes=size_bytes)
    assert judge(replace(evidence, candidate=larger), FAST).verdict == verdict


@pytest.mark.parametrize(("seconds", "verdict"), [(0.15, "promote"), (0.151, "reject")])
def test_latency_has_a_limit_where_both_were_measured(seconds: float, verdict: str) -> None:
    evidence = better()
    before = replace(evidence.champion, latency_seconds={"ttft_p50": 0.1, "ttft_p95": 0.1})
    after = replace(evidence.candidate, latency_seconds={"ttft_p95": seconds})
    found = judge(replace(evidence, champion=before, candidate=after), FAST)
    assert found.verdict == verdict
    assert found.numbers["ttft_p95_seconds_after"] == seconds
    assert "ttft_p50_seconds_before" not in found.numbers


def test_rejection_comes_before_indecision_in_the_reasons() -> None:
    verdict = judge(replace(better(5), parity_ok=False), FAST)
    assert verdict.verdict == "reject"
    assert "checkpoint" in verdict.reasons[0]
    assert verdict.reasons[1].startswith("only 5 held-out rows")


@pytest.mark.parametrize("bad", [[0.5, 1.1], [-0.1, 0.5], [0.5, float("nan")]])
def test_scores_outside_their_range_are_refused(bad: list[float]) -> None:
    with pytest.raises(DataError, match="scores must lie between 0 and 1"):
        measured(np.array(bad))


def test_arrays_of_two_dimensions_are_refused() -> None:
    with pytest.raises(DataError, match="losses must have one dimension, got 2"):
        measured(scores(3), np.ones((2, 2)))


def test_unpaired_measurements_are_refused() -> None:
    with pytest.raises(DataError, match=r"scores must be paired, got 100 .* and 99"):
        replace(better(), candidate=measured(scores(99)))


@pytest.mark.parametrize("losses", [np.zeros(20), np.full(20, np.nan)])
def test_champion_without_a_usable_loss_is_refused(losses: NDArray[np.float64]) -> None:
    one = measured(scores(40), losses)
    with pytest.raises(DataError, match="the champion's losses must be finite and above 0"):
        GateEvidence(champion=one, candidate=one, parity_ok=True, val_loss=2.0)


def simulate(gain: float, rounds: int, rows: int) -> int:
    """How many of so many candidates are promoted, whose true gain is `gain`."""
    rng = np.random.default_rng(11)
    promoted = 0
    for _ in range(rounds):
        skill = rng.uniform(0.1, 0.8, rows)  # how hard each row is, for both
        before = np.clip(skill + rng.normal(0, 0.15, rows), 0, 1)
        after = np.clip(skill + gain + rng.normal(0, 0.15, rows), 0, 1)
        losses = rng.normal(2.0, 0.2, 32)
        evidence = GateEvidence(
            champion=measured(before, losses),
            candidate=measured(after, losses + rng.normal(0, 0.02, 32)),
            parity_ok=True,
            val_loss=2.0,
        )
        promoted += judge(evidence, GateConfig(resamples=299)).verdict == "promote"
    return promoted


@pytest.mark.slow
def test_candidates_that_are_no_better_are_seldom_promoted() -> None:
    # 5 % of 300 is 15, with a standard deviation of 3.8.
    assert simulate(0.0, rounds=300, rows=40) <= 27


@pytest.mark.slow
def test_candidates_that_are_worse_are_hardly_ever_promoted() -> None:
    assert simulate(-0.05, rounds=200, rows=40) <= 2


@pytest.mark.slow
def test_large_losses_among_small_gains_do_not_pass_as_a_gain() -> None:
    # Mean gain 0; the permutation test alone promotes 17 to 20 % of these.
    rng = np.random.default_rng(12)
    promoted = 0
    for _ in range(200):
        before = np.full(30, 0.5)
        after = before - np.where(rng.random(30) < 0.1, 0.45, -0.05)
        evidence = replace(better(), champion=measured(before), candidate=measured(after))
        promoted += judge(evidence, GateConfig(resamples=299)).verdict == "promote"
    assert promoted <= 20  # 5 % of 200 is 10, with a standard deviation of 3.1


def test_gain_that_hides_large_losses_is_undecided() -> None:
    before = np.full(30, 0.5)
    after = before + 0.05
    after[0] = 0.05
    evidence = replace(better(), champion=measured(before), candidate=measured(after))
    verdict = judge(evidence, FAST)
    assert verdict.verdict == "undecided"
    assert "large losses among small gains" in verdict.reasons[0]


def test_real_gain_is_found() -> None:
    assert simulate(0.1, rounds=100, rows=60) >= 90


@pytest.mark.parametrize(("divergence", "verdict"), [(0.05, "promote"), (0.051, "reject")])
def test_a_candidate_may_not_move_far_from_the_imported_model(
    divergence: float, verdict: str
) -> None:
    found = judge(replace(better(), divergence=divergence), FAST)
    assert found.verdict == verdict
    assert found.numbers["divergence"] == divergence
    assert any("diverges by" in reason for reason in found.reasons)
