import pytest

from training.curves import Point, verdict


def _points(validation: list[float], training: list[float]) -> list[Point]:
    points = [Point(step=0, val_loss=validation[0])]
    for number, (val_loss, train_loss) in enumerate(zip(validation[1:], training, strict=True)):
        step = 10 * (number + 1)
        points += [Point(step=step, train_loss=train_loss), Point(step=step, val_loss=val_loss)]
    return points


@pytest.mark.parametrize(
    ("validation", "training", "said"),
    [
        ([3.0, 2.5, 2.4, 2.6], [2.8, 2.3, 1.9], "overfits: after step 20 the validation loss rose"),
        ([3.0, 2.5, 2.4, 2.6], [2.8, 2.3, 2.7], "lower learning rates would be steadier"),
        ([3.0, 2.5, 2.4, 2.2], [2.8, 2.3, 2.1], "still falling at the end"),
        ([3.0, 2.401, 2.4, 2.4], [2.8, 2.3, 2.3], "has settled at 2.400"),
    ],
)
def test_verdict_says_how_the_run_went(
    validation: list[float], training: list[float], said: str
) -> None:
    assert said in verdict(_points(validation, training))


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([(0, 3.0), (1, 2.9)], "1 step and 2 validations; the validation loss went from 3.000 to"),
        ([(0, 3.0), (3, 2.9), (6, 3.2), (9, 3.3)], "9 steps and 4 validations"),
        ([(0, 3.0), (60, 2.0)], "60 steps and 2 validations"),
    ],
)
def test_verdict_says_when_there_is_too_little_to_tell(
    points: list[tuple[int, float]], said: str
) -> None:
    found = verdict([Point(step=step, val_loss=loss) for step, loss in points])
    assert found.startswith("Too few steps to tell")
    assert said in found


def test_verdict_says_when_no_step_was_better_than_the_start() -> None:
    found = verdict(_points([2.0, 2.1, 2.05, 2.2], [2.8, 2.7, 2.6]))
    assert "never fell below the 2.000 of the start" in found
    assert "step 20" not in found


def test_verdict_needs_two_validations() -> None:
    assert "too seldom" in verdict([Point(step=0, val_loss=3.0)])
