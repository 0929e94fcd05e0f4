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


def test_verdict_needs_two_validations() -> None:
    assert "too seldom" in verdict([Point(step=0, val_loss=3.0)])
