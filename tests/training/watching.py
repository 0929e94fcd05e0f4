"""Look into runs of the real trainers from tests."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from transformers import Trainer, TrainerCallback

from training import recipe, runner


@contextmanager
def watching(callback: TrainerCallback) -> Iterator[None]:
    """Give the trainers made meanwhile one more callback."""

    def prepare(trainer: Trainer, *args: object) -> None:
        recipe.prepare(trainer, *args)
        trainer.add_callback(callback)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "prepare", prepare)
        yield
