"""When to train again: numbers in, a decision with its reasons out. Pure; the clock is an argument.

Corrections and approvals are what a round learns from, so none of the reasons holds without them;
drift and age only say that waiting for more is not worth it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from everloop.settings import Config


class TriggerConfig(Config):
    """Table [trigger]."""

    min_new_feedback: int = Field(
        200, ge=1, description="approvals and corrections since the last round that start one"
    )
    # Of 130, with the default share, 30 are held out in 19 of 20 rounds: what the gate wants.
    min_corrections: int = Field(
        130, ge=1, description="corrections since the last round that start one"
    )
    drift_share: float = Field(
        0.5, gt=0, le=1, description="share of drifted columns that starts a round"
    )
    max_age_hours: float = Field(
        168.0, gt=0, description="age of the champion at which any new feedback starts a round"
    )
    cooldown_minutes: float = Field(
        60.0, ge=0, description="time after a round in which none starts"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerState:
    """What the trigger looks at. Times are Unix seconds.

    Attributes:
        approvals, corrections: given since the last round.
        drift_share: of the newest drift report; None when there is none.
        last_round_at: end of the last round; None before the first.
        champion_since: when the champion went live; None before the first.
    """

    now: float
    approvals: int
    corrections: int
    drift_share: float | None = None
    last_round_at: float | None = None
    champion_since: float | None = None


@dataclass(frozen=True, slots=True)
class TriggerVerdict:
    """Whether to train again, why, and the numbers it was decided on."""

    verdict: Literal["retrain", "wait"]
    reasons: tuple[str, ...]
    numbers: dict[str, float]


def decide(state: TriggerState, config: TriggerConfig) -> TriggerVerdict:
    """Decide whether a round of the loop should start now."""
    numbers = _numbers(state)
    usable = state.approvals + state.corrections
    if state.last_round_at is not None:
        waited = (state.now - state.last_round_at) / 60
        if waited < config.cooldown_minutes:
            reason = (
                f"cool-down: {waited:.0f} of {config.cooldown_minutes:.0f} minutes have passed "
                "since the last round"
            )
            return TriggerVerdict("wait", (reason,), numbers)
    if usable == 0:
        reason = "nothing to learn from: no approval and no correction since the last round"
        return TriggerVerdict("wait", (reason,), numbers)
    reasons = tuple(_reasons(state, config))
    if reasons:
        return TriggerVerdict("retrain", reasons, numbers)
    reason = (
        f"too little feedback yet: {usable} of {config.min_new_feedback} approvals and "
        f"corrections, {state.corrections} of {config.min_corrections} corrections"
    )
    return TriggerVerdict("wait", (reason,), numbers)


def _reasons(state: TriggerState, config: TriggerConfig) -> Iterator[str]:
    usable = state.approvals + state.corrections
    if usable >= config.min_new_feedback:
        yield (
            f"{usable} approvals and corrections since the last round, at least "
            f"{config.min_new_feedback} wanted"
        )
    if state.corrections >= config.min_corrections:
        yield (
            f"{state.corrections} corrections since the last round, at least "
            f"{config.min_corrections} wanted"
        )
    if state.drift_share is not None and state.drift_share >= config.drift_share:
        yield (
            f"{state.drift_share:.0%} of the columns have drifted, the limit is "
            f"{config.drift_share:.0%}"
        )
    if state.champion_since is not None:
        age = (state.now - state.champion_since) / 3600
        if age >= config.max_age_hours:
            yield f"the champion is {age:.0f} hours old, the limit is {config.max_age_hours:.0f}"


def _numbers(state: TriggerState) -> dict[str, float]:
    numbers = {"approvals": float(state.approvals), "corrections": float(state.corrections)}
    if state.drift_share is not None:
        numbers["drift_share"] = state.drift_share
    if state.last_round_at is not None:
        numbers["seconds_since_last_round"] = state.now - state.last_round_at
    if state.champion_since is not None:
        numbers["champion_age_seconds"] = state.now - state.champion_since
    return numbers
