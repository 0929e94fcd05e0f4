import math

import pytest

from training.guard import WINDOW, DivergedError, LossGuard


def test_guard_stops_at_a_loss_that_is_no_number() -> None:
    with pytest.raises(DivergedError, match="the loss became nan at step 7") as caught:
        LossGuard().check(math.nan, 7)
    assert caught.value.step == 7


def test_guard_stops_when_the_mean_leaves_the_valley() -> None:
    guard = LossGuard()
    for step in range(40):
        guard.check(4.0, step)
    with pytest.raises(DivergedError, match=r"rose from 4\.000 to 9\.100 at step 59"):
        for step in range(40, 40 + WINDOW):
            guard.check(9.1, step)


def test_guard_forgives_a_bad_step_and_a_slow_rise() -> None:
    guard = LossGuard()
    for step in range(200):
        guard.check(60.0 if step == 100 else 4.0 + step / 100, step)
