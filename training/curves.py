"""Read the curves of a run: points from history.jsonl, and in words whether it overfits."""

import json
from pathlib import Path

from everloop.records import Record
from everloop.text_files import read_text_lines

# A validation loss that ends so much above its best, relative, while the training loss fell.
OVERFIT_RISE = 0.005
# Of fewer steps, or validations, the start among them, a curve says nothing.
MIN_STEPS = 10
MIN_VALIDATIONS = 3
# A best validation in the last part of the run, with this relative gain over it, is not the end.
STILL_FALLING = 0.003


class Point(Record):
    """One line of history.jsonl."""

    step: int
    tokens: float | None = None
    seconds: float | None = None
    train_loss: float | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None


def read_curves(path: Path) -> list[Point]:
    """Read the points of a run, in order."""
    lines = read_text_lines(path) if path.is_file() else []
    return [Point.model_validate(json.loads(line)) for line in lines if line]


def verdict(points: list[Point]) -> str:
    """Say in a sentence how the run went.

    With validation losses 3.0, 2.5, 2.4, 2.6 and training losses that fell from 2.3 to 1.9 after
    the best validation, the run overfits from there on.
    """
    validations = [(point.step, point.val_loss) for point in points if point.val_loss is not None]
    training = [(point.step, point.train_loss) for point in points if point.train_loss is not None]
    if not points:
        return "The model was not trained here: there are no curves."
    if len(validations) < 2:
        return "The run was validated too seldom to say whether it overfits."
    best_step, best = min(validations, key=lambda item: item[1])
    (first_step, first), (last_step, last) = validations[0], validations[-1]
    steps = last_step - first_step
    if len(validations) < MIN_VALIDATIONS or steps < MIN_STEPS:
        return (
            f"Too few steps to tell how the run went: {steps} step{'s'[: steps != 1]} and "
            f"{len(validations)} validations; the validation loss went from {first:.3f} to "
            f"{last:.3f}."
        )
    if best_step == first_step:
        return (
            f"The validation loss never fell below the {first:.3f} of the start and ended at "
            f"{last:.3f}: lower learning rates, or rows that are more like those of the "
            "validation, would help."
        )
    before = _mean([loss for step, loss in training if step <= best_step][-3:])
    after = _mean([loss for step, loss in training if step > best_step][-3:])
    if last > best * (1 + OVERFIT_RISE):
        if after is not None and before is not None and after < before:
            return (
                f"The run overfits: after step {best_step} the validation loss rose from "
                f"{best:.3f} to {last:.3f} while the training loss fell from {before:.3f} to "
                f"{after:.3f}. The weights of step {best_step} were kept; more data or dropout "
                "would help, more training would not."
            )
        return (
            f"The validation loss rose from {best:.3f} at step {best_step} to {last:.3f} and the "
            "training loss with it: lower learning rates would be steadier. The best weights "
            "were kept."
        )
    earlier = [loss for step, loss in validations if step <= 0.8 * last_step]
    if earlier and min(earlier) > best * (1 + STILL_FALLING):
        return (
            f"The validation loss was still falling at the end ({best:.3f} at step {best_step}): "
            "a larger budget should help."
        )
    return f"The validation loss has settled at {best:.3f}: the run is neither short nor overfit."


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
