"""Whether a candidate may replace the champion: measurements in, a verdict with reasons out. Pure.

The candidate is promoted only when every check passes, so the chance of promoting one that is no
better is at most `alpha`, whatever the other checks do. A gain must pass two tests: the permutation
test, which is exact when the versions answer alike, and a bootstrap bound, which also holds when a
few large losses hide among many small gains. With too few rows to tell, the verdict is `undecided`
and says how large a gain could have been seen; the champion stays.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from everloop.errors import DataError
from everloop.settings import Config
from feedback.paired import detectable_gain, interval, p_value

Outcome = Literal["pass", "reject", "undecided"]
Array = NDArray[np.float64]

_ROUNDING = 1e-9  # losses that make up for all gains leave a mean of about 1e-17


class GateConfig(Config):
    """Table [gate]."""

    alpha: float = Field(
        0.05, gt=0, lt=0.5, description="chance of promoting a candidate that is no better"
    )
    min_rows: int = Field(30, ge=5, description="held-out rows below which nothing is decided")
    gain_of_interest: float = Field(
        0.05, gt=0, le=1, description="gain that must have been detectable before one gives up"
    )
    power: float = Field(
        0.8, gt=0.5, lt=1, description="chance of seeing a gain that is called detectable"
    )
    min_windows: int = Field(
        16, ge=5, description="original validation windows below which nothing is decided"
    )
    max_forgetting: float = Field(
        0.03, ge=0, description="increase of the original validation loss, relative, at most"
    )
    max_divergence: float = Field(
        0.05,
        gt=0,
        description="KL divergence from an imported model on its own answers, nats a token",
    )
    max_size_increase: float = Field(0.1, ge=0, description="increase in bytes, relative, at most")
    max_latency_increase: float = Field(
        0.5, ge=0, description="increase of each latency percentile, relative, at most"
    )
    resamples: int = Field(9999, ge=99, description="of the permutation test and the bootstrap")
    seed: int = Field(0, ge=0, description="of the resampling")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """What was measured of one version.

    Attributes:
        scores: quality of its answer to each held-out row, 0 (bad) to 1, [N].
        losses: nats per token on each window of the original validation data, [M].
        size_bytes: of the model version's folder.
        latency_seconds: name of a percentile, such as `ttft_p95` -> seconds; compared where both
            versions have it.

    Raises:
        DataError: an array is not one-dimensional, or a score is not in 0 to 1.
    """

    scores: Array
    losses: Array
    size_bytes: int
    latency_seconds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in (("scores", self.scores), ("losses", self.losses)):
            if values.ndim != 1:
                raise DataError(f"gate: {name} must have one dimension, got {values.ndim}.")
        if not np.all((self.scores >= 0) & (self.scores <= 1)):
            raise DataError("gate: scores must lie between 0 and 1; check the metric.")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GateEvidence:
    """Both versions on the same rows and windows, in the same order.

    Attributes:
        parity_ok: the candidate's graph gives what its checkpoint gives.
        val_loss: of the candidate's export, nats per token.
        divergence: of the candidate's checkpoint from that of the imported model which it goes back
            to, on answers that this one gave to general prompts, nats a token; None for others.

    Raises:
        DataError: the versions were not measured on the same rows and windows.
    """

    champion: Measured
    candidate: Measured
    parity_ok: bool
    val_loss: float
    divergence: float | None = None

    def __post_init__(self) -> None:
        for name in ("scores", "losses"):
            before, after = getattr(self.champion, name), getattr(self.candidate, name)
            if before.shape != after.shape:
                raise DataError(
                    f"gate: {name} must be paired, got {before.size} of the champion and "
                    f"{after.size} of the candidate. Measure both on the same rows."
                )
        losses = self.champion.losses
        if losses.size and not (np.all(np.isfinite(losses)) and np.mean(losses) > 0):
            raise DataError("gate: the champion's losses must be finite and above 0 on average.")


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """The verdict, its reasons in words (the decisive ones first), and its numbers.

    Attributes:
        numbers: finite ones only; those that could not be measured are absent. `quality_before`,
            `quality_after`, `quality_gain`, its two-sided `ci95_low` and `ci95_high` and its lower
            `gain_bound`, `p_value`, `detectable_gain`, `forgetting` and its one-sided bounds
            `forgetting_low` and `forgetting_high`, `divergence`, `rows`, `windows`, `val_loss`,
            `size_bytes_before`, `size_bytes_after`, and each latency.
    """

    verdict: Literal["promote", "reject", "undecided"]
    reasons: tuple[str, ...]
    numbers: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Check:
    outcome: Outcome
    reason: str
    numbers: dict[str, float] = field(default_factory=dict)


def judge(evidence: GateEvidence, config: GateConfig) -> GateVerdict:
    """Judge a candidate; one failed check rejects it, one undecided check leaves it undecided."""
    checks = [
        _quality(evidence, config),
        _forgetting(evidence, config),
        *_divergence(evidence, config),
        _export(evidence),
        _size(evidence, config),
        *_latency(evidence, config),
    ]
    order: tuple[Outcome, ...] = ("reject", "undecided", "pass")
    checks.sort(key=lambda check: order.index(check.outcome))
    numbers = {key: value for check in checks for key, value in check.numbers.items()}
    worst = checks[0].outcome
    return GateVerdict(
        verdict="promote" if worst == "pass" else worst,
        reasons=tuple(check.reason for check in checks),
        numbers={key: value for key, value in numbers.items() if math.isfinite(value)},
    )


def _export(evidence: GateEvidence) -> _Check:
    numbers = {"val_loss": evidence.val_loss}
    if not evidence.parity_ok:
        return _Check("reject", "the exported graph does not give what its checkpoint gives")
    if not math.isfinite(evidence.val_loss):
        return _Check("reject", f"the export's validation loss is {evidence.val_loss}")
    return _Check("pass", "the exported graph gives what its checkpoint gives", numbers)


def _quality(evidence: GateEvidence, config: GateConfig) -> _Check:
    before, after = evidence.champion.scores, evidence.candidate.scores
    gains = after - before
    detectable = detectable_gain(gains, config.alpha, config.power)
    numbers = {"rows": float(gains.size), "detectable_gain": detectable}
    if gains.size < 2:
        return _Check("undecided", _too_few(gains.size, detectable, config), numbers)
    gain, p = float(gains.mean()), p_value(gains, config.resamples, config.seed)
    low, high = interval(gains, 0.95, config.resamples, config.seed)
    # Two-sided at 1 - 2 alpha, so that the lower bound alone holds with 1 - alpha.
    bound, _ = interval(gains, 1 - 2 * config.alpha, config.resamples, config.seed)
    numbers |= {
        "quality_before": float(before.mean()),
        "quality_after": float(after.mean()),
        "quality_gain": gain,
        "ci95_low": low,
        "ci95_high": high,
        "p_value": p,
        "gain_bound": bound,
    }
    if gains.size < config.min_rows:
        return _Check("undecided", _too_few(gains.size, detectable, config), numbers)
    found = (
        f"quality on {gains.size} held-out rows from {before.mean():.3f} to {after.mean():.3f}: "
        f"gain {gain:+.3f}, 95% interval [{low:+.3f}, {high:+.3f}], p = {p:.4f}"
    )
    if p <= config.alpha and bound > _ROUNDING:
        return _Check("pass", f"{found}, at most {config.alpha} wanted", numbers)
    if p <= config.alpha:
        reason = f"{found}: large losses among small gains, the gain may be {bound:+.3f}"
        return _Check("undecided", reason, numbers)
    if high < 0:
        return _Check("reject", f"{found}: the candidate is worse", numbers)
    if detectable <= config.gain_of_interest:
        reason = f"{found}: no gain, though one of {detectable:.3f} would have been seen"
        return _Check("reject", reason, numbers)
    reason = (
        f"{found}: cannot be told from chance; {config.power:.0%} power is reached at a gain of "
        f"{detectable:.3f}, and {config.gain_of_interest} matters. Collect more feedback"
    )
    return _Check("undecided", reason, numbers)


def _too_few(rows: int, detectable: float, config: GateConfig) -> str:
    return (
        f"only {rows} held-out rows, at least {config.min_rows} wanted: a gain below "
        f"{min(detectable, 1.0):.3f} could not be seen with {config.power:.0%} power"
    )


def _forgetting(evidence: GateEvidence, config: GateConfig) -> _Check:
    before, after = evidence.champion.losses, evidence.candidate.losses
    numbers = {"windows": float(before.size)}
    if not np.all(np.isfinite(after)):
        return _Check("reject", "the candidate's loss on the original data is not finite", numbers)
    if before.size < config.min_windows:
        reason = (
            f"only {before.size} windows of the original validation data, at least "
            f"{config.min_windows} wanted: forgetting cannot be ruled out"
        )
        return _Check("undecided", reason, numbers)
    increase = (after - before) / before.mean()
    mean = float(increase.mean())
    low, high = interval(increase, 1 - 2 * config.alpha, config.resamples, config.seed)
    numbers |= {"forgetting": mean, "forgetting_low": low, "forgetting_high": high}
    found = (
        f"loss on {before.size} windows of the original data changed by {mean:+.2%}, at most "
        f"{high:+.2%} with {1 - config.alpha:.0%} confidence"
    )
    limit = f"the limit is {config.max_forgetting:+.2%}"
    if high <= config.max_forgetting:
        return _Check("pass", f"{found}; {limit}", numbers)
    if mean > config.max_forgetting:
        return _Check("reject", f"{found}; {limit}: the candidate forgets", numbers)
    return _Check("undecided", f"{found}; {limit}: forgetting cannot be ruled out", numbers)


def _divergence(evidence: GateEvidence, config: GateConfig) -> Iterator[_Check]:
    divergence = evidence.divergence
    if divergence is None:
        return
    found = (
        f"on general prompts the candidate diverges by {divergence:.4f} nats a token from the "
        f"imported model, at most {config.max_divergence} wanted"
    )
    if divergence <= config.max_divergence:
        yield _Check("pass", found, {"divergence": divergence})
    else:
        yield _Check("reject", f"{found}: the candidate forgets", {"divergence": divergence})


def _size(evidence: GateEvidence, config: GateConfig) -> _Check:
    before, after = evidence.champion.size_bytes, evidence.candidate.size_bytes
    numbers = {"size_bytes_before": float(before), "size_bytes_after": float(after)}
    found = f"size from {before:,} to {after:,} bytes, at most {config.max_size_increase:+.0%}"
    is_larger = after > before * (1 + config.max_size_increase)
    return _Check("reject" if is_larger else "pass", found, numbers)


def _latency(evidence: GateEvidence, config: GateConfig) -> Iterator[_Check]:
    for name, before in evidence.champion.latency_seconds.items():
        after = evidence.candidate.latency_seconds.get(name)
        if after is None:
            continue
        numbers = {f"{name}_seconds_before": before, f"{name}_seconds_after": after}
        found = (
            f"{name} from {before * 1000:.1f} to {after * 1000:.1f} ms, at most "
            f"{config.max_latency_increase:+.0%}"
        )
        is_slower = after > before * (1 + config.max_latency_increase)
        yield _Check("reject" if is_slower else "pass", found, numbers)
