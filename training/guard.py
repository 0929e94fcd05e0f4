"""Notice that a run is lost: the loss is no number, or has left the valley that it was in."""

import math
from collections import deque

from everloop.errors import EverloopError

# The mean over this many steps is compared with the least one so far. A single bad step moves it
# little; a run whose learning rate is too high passes the limit within some tens of steps.
WINDOW = 20
FACTOR, MARGIN = 2.0, 1.0


class DivergedError(EverloopError):
    """The loss became infinite, no number, or far worse than it was.

    Attributes:
        step: the optimizer step in which it was seen.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class LossGuard:
    """Watches the training loss of every optimizer step.

    With means of 4.0 at best, a mean above 2 x 4.0 + 1 = 9 ends the run.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._least = math.inf

    def check(self, loss: float, step: int) -> None:
        """Take the loss of one step.

        Raises:
            DivergedError: the run is lost.
        """
        remedy = "Lower the learning rates and start a new run."
        if not math.isfinite(loss):
            raise DivergedError(f"training: the loss became {loss} at step {step}. {remedy}", step)
        self._recent.append(loss)
        if len(self._recent) < WINDOW:
            return
        mean = sum(self._recent) / WINDOW
        self._least = min(self._least, mean)
        if mean > FACTOR * self._least + MARGIN:
            raise DivergedError(
                f"training: the mean loss of {WINDOW} steps rose from {self._least:.3f} to "
                f"{mean:.3f} at step {step}. {remedy}",
                step,
            )
