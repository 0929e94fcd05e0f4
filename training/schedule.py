"""How far a run is: its budget in steps or seconds, and the learning rate that follows from it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from training.config import OptimizerConfig
from training.distributed import SharedClock

# A run by the clock has no last step; a trainer wants a number all the same.
ENDLESS_STEPS = 1_000_000


@dataclass(slots=True)
class Budget:
    """A budget of optimizer steps, of wall-clock seconds, or of both: the first ends it.

    Attributes:
        spent_before: seconds of earlier sessions of the same run.
        reserve_seconds: kept back for the last validation and the last save.
    """

    max_steps: int | None
    seconds: float | None
    clock: Callable[[], float] = field(default_factory=SharedClock)
    spent_before: float = 0.0
    reserve_seconds: float = 0.0
    _start: float = field(init=False)

    def __post_init__(self) -> None:
        self._start = self.clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the run began, its earlier sessions included."""
        return self.spent_before + self.clock() - self._start

    def tick(self) -> None:
        """Read the time that several processes share; called once before and after each step."""
        if isinstance(self.clock, SharedClock):
            self.clock.tick()

    @property
    def trainer_steps(self) -> int:
        """The number of steps to tell a trainer."""
        return self.max_steps or ENDLESS_STEPS

    def fraction(self, step: int) -> float:
        """The part of the budget that is spent, 0 to 1."""
        spent = step / self.trainer_steps
        if self.seconds is not None:
            spent = max(spent, self.elapsed / max(self.seconds - self.reserve_seconds, 1e-9))
        return min(1.0, spent)

    def is_spent(self, step: int, next_step_seconds: float) -> bool:
        """Say whether another step would overrun the budget."""
        if self.seconds is not None:
            needed = next_step_seconds + self.reserve_seconds
            if self.elapsed + needed >= self.seconds:
                return True
        return step >= self.trainer_steps


def learning_rate_scale(step: int, fraction: float, config: OptimizerConfig) -> float:
    """Linear warm-up over steps, times a fall over the budget from 1 to the final ratio.

    With 10 warm-up steps and a final ratio of 0.1, step 0 at fraction 0 gives 0.1 in every
    schedule. Late in the budget:

    - cosine: half a wave. 0.55 at fraction 0.5, 0.1 at 1.
    - linear: a straight line. 0.55 at fraction 0.5, 0.1 at 1.
    - wsd (warm-up, stable, decay): 1 until `decay_share` of the budget is left, then a straight
      line. With a share of 0.2: 1 at fraction 0.8, 0.55 at 0.9, 0.1 at 1.
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "cosine":
        height = 0.5 * (1 + math.cos(math.pi * fraction))
    elif config.schedule == "linear":
        height = 1 - fraction
    else:
        height = min(1.0, (1 - fraction) / config.decay_share)
    final = config.final_learning_rate_ratio
    return warmup * (final + (1 - final) * height)
