import pytest

from training.config import PretrainConfig
from training.schedule import ENDLESS_STEPS, Budget, learning_rate_scale


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_budget_of_steps_counts_steps() -> None:
    budget = Budget(max_steps=20, seconds=None)
    assert budget.trainer_steps == 20
    assert (budget.fraction(0), budget.fraction(5), budget.fraction(30)) == (0.0, 0.25, 1.0)
    assert not budget.is_spent(19, next_step_seconds=1e9)
    assert budget.is_spent(20, next_step_seconds=0)


def test_budget_of_seconds_counts_seconds_and_keeps_some_back() -> None:
    clock = Clock()
    budget = Budget(max_steps=None, seconds=60, clock=clock)
    budget.reserve_seconds = 10
    assert budget.trainer_steps == ENDLESS_STEPS
    clock.now = 125.0
    assert budget.fraction(7) == 0.5
    assert not budget.is_spent(7, next_step_seconds=24)
    assert budget.is_spent(7, next_step_seconds=25)


def test_the_first_of_two_budgets_ends_the_run() -> None:
    clock = Clock()
    budget = Budget(max_steps=20, seconds=60, clock=clock)
    assert budget.fraction(10) == 0.5
    assert budget.is_spent(20, next_step_seconds=0)
    clock.now = 145.0
    assert budget.fraction(10) == 0.75
    assert budget.is_spent(10, next_step_seconds=15)


def test_budget_includes_earlier_sessions() -> None:
    clock = Clock()
    budget = Budget(max_steps=None, seconds=60, clock=clock, spent_before=30)
    clock.now = 110.0
    assert budget.elapsed == 40.0


def test_budget_smaller_than_its_reserve_is_spent_at_once() -> None:
    budget = Budget(max_steps=None, seconds=1, reserve_seconds=5)
    assert budget.fraction(0) == 1.0
    assert budget.is_spent(1, next_step_seconds=0)


@pytest.mark.parametrize(
    ("schedule", "step", "fraction", "scale"),
    [
        ("cosine", 0, 0.0, 0.1),
        ("cosine", 9, 0.0, 1.0),
        ("cosine", 20, 0.5, 0.55),
        ("cosine", 99, 1.0, 0.1),
        ("linear", 20, 0.5, 0.55),
        ("linear", 20, 0.75, 0.325),
        ("wsd", 0, 0.0, 0.1),
        ("wsd", 20, 0.8, 1.0),
        ("wsd", 20, 0.9, 0.55),
        ("wsd", 99, 1.0, 0.1),
    ],
)
def test_learning_rate_scale_warms_up_and_falls(
    schedule: str, step: int, fraction: float, scale: float
) -> None:
    config = PretrainConfig(schedule=schedule, warmup_steps=10, final_learning_rate_ratio=0.1)
    assert learning_rate_scale(step, fraction, config) == pytest.approx(scale)


def test_learning_rate_scale_without_warmup_starts_full() -> None:
    assert learning_rate_scale(0, 0.0, PretrainConfig(warmup_steps=0)) == 1.0
