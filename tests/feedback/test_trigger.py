from dataclasses import replace

import pytest

from feedback.trigger import TriggerConfig, TriggerState, TriggerVerdict, decide

CONFIG = TriggerConfig(
    min_new_feedback=100,
    min_corrections=20,
    drift_share=0.5,
    max_age_hours=24.0,
    cooldown_minutes=30.0,
)
QUIET = TriggerState(now=1_000_000.0, approvals=5, corrections=5)


def test_little_feedback_waits_and_says_what_is_missing() -> None:
    assert decide(QUIET, CONFIG) == TriggerVerdict(
        "wait",
        ("too little feedback yet: 10 of 100 approvals and corrections, 5 of 20 corrections",),
        {"approvals": 5.0, "corrections": 5.0},
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"approvals": 95}, "100 approvals and corrections since the last round, at least 100"),
        ({"corrections": 20}, "20 corrections since the last round, at least 20 wanted"),
        ({"drift_share": 0.5}, "50% of the columns have drifted, the limit is 50%"),
        ({"champion_since": 913_600.0}, "the champion is 24 hours old, the limit is 24"),
    ],
)
def test_each_limit_alone_starts_a_round(changes: dict[str, float], reason: str) -> None:
    verdict = decide(replace(QUIET, **changes), CONFIG)
    assert verdict.verdict == "retrain"
    assert len(verdict.reasons) == 1
    assert reason in verdict.reasons[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"approvals": 94},
        {"corrections": 19},
        {"drift_share": 0.49},
        {"champion_since": 913_601.0},
    ],
)
def test_just_below_a_limit_waits(changes: dict[str, float]) -> None:
    assert decide(replace(QUIET, **changes), CONFIG).verdict == "wait"


def test_all_reasons_are_named() -> None:
    state = replace(QUIET, approvals=100, corrections=50, drift_share=1.0, champion_since=0.0)
    verdict = decide(state, CONFIG)
    assert len(verdict.reasons) == 4
    assert verdict.numbers == {
        "approvals": 100.0,
        "corrections": 50.0,
        "drift_share": 1.0,
        "champion_age_seconds": 1_000_000.0,
    }


def test_drift_and_age_need_something_to_learn_from() -> None:
    state = replace(QUIET, approvals=0, corrections=0, drift_share=1.0, champion_since=0.0)
    verdict = decide(state, CONFIG)
    assert verdict.verdict == "wait"
    assert verdict.reasons[0].startswith("nothing to learn from")


@pytest.mark.parametrize(("minutes", "verdict"), [(29, "wait"), (30, "retrain")])
def test_cooldown_holds_whatever_was_said(minutes: int, verdict: str) -> None:
    state = replace(QUIET, corrections=500, last_round_at=QUIET.now - 60 * minutes)
    found = decide(state, CONFIG)
    assert found.verdict == verdict
    assert found.numbers["seconds_since_last_round"] == 60.0 * minutes


def test_cooldown_says_how_long() -> None:
    state = replace(QUIET, corrections=500, last_round_at=QUIET.now - 600)
    assert decide(state, CONFIG).reasons == (
        "cool-down: 10 of 30 minutes have passed since the last round",
    )
