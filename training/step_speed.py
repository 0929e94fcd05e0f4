"""Says so when the steps of a run are far slower than the machine multiplies."""
# ruff: noqa: ARG002 - the Trainer calls every hook with all of its arguments

import logging
import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from everloop.machine_record import TorchSpeed
from training.numerics import Numerics

logger = logging.getLogger(__name__)

_SLOW = 10.0  # times what the products take
_STEPS = 3  # of which the fastest counts
# Below, a step's Python and its small operations count, and nobody waits for it.
_LEAST_SECONDS = 0.25
_BUSY = 0.5  # share of the threads' time that a process normally computes in


@dataclass(frozen=True, slots=True)
class StepWork:
    """The products of one optimizer step in one process.

    Attributes:
        parameters: of the network.
        tokens: that this process learns from in a step.
        threads: that it computes with.
        numerics: formats of the run.
        speed: of the machine's products.
    """

    parameters: int
    tokens: float
    threads: int
    numerics: Numerics
    speed: TorchSpeed

    @property
    def gflop(self) -> float:
        """Two operations forward and four backward for each parameter and token.

        Source: Kaplan et al., Scaling laws for neural language models, 2020, section 2.1.
        """
        return 6 * self.parameters * self.tokens / 1e9

    @property
    def gflop_per_second(self) -> float:
        """What these threads reach in the run's format, or in fp32 where bf16 is imitated."""
        full = self.speed.fp32
        if self.numerics.products == "bf16":
            full = max(full, self.speed.bf16)
        return full * min(1.0, self.threads / self.speed.threads)

    def complaint(self, seconds: float, busy_seconds: float) -> str | None:
        """One line about a step that takes ten times as long as its products would; else None.

        Args:
            seconds: of the step.
            busy_seconds: in which threads of this process computed, added up.
        """
        expected = self.gflop / self.gflop_per_second
        if seconds < max(_LEAST_SECONDS, _SLOW * expected):
            return None
        return (
            f"a step takes {seconds:.1f} s, {seconds / expected:.0f} times what its products do: "
            f"6 x {self.parameters / 1e6:.1f} M parameters x {self.tokens:,.0f} tokens are "
            f"{self.gflop:,.1f} GFLOP, and its threads reach {self.gflop_per_second:,.0f} GFLOP/s. "
            f"{self._reason(seconds, busy_seconds)}"
        )

    def _reason(self, seconds: float, busy_seconds: float) -> str:
        imitates = not self.speed.bf16_is_clearly_faster
        if imitates and "bf16" in (self.numerics.products, self.numerics.muon):
            return (
                "The run was begun in bf16, of which this machine multiplies "
                f"{self.speed.bf16:,.1f} GFLOP/s; a new run would take fp32."
            )
        if busy_seconds < _BUSY * self.threads * seconds:
            return (
                f"It computed in {busy_seconds / (self.threads * seconds):.0%} of its threads' "
                "time: other processes take the cores, or num_threads is too high."
            )
        return "The rest goes into small operations: more tokens a step make better use of it."


class SlowStepCallback(TrainerCallback):
    """Logs the complaint about the first steps, once."""

    def __init__(self, work: StepWork) -> None:
        self._work = work
        self._begin = (0.0, 0.0)
        self._times: list[tuple[float, float]] = []

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clocks."""
        self._begin = (time.perf_counter(), time.process_time())

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Judge the fastest of the first steps."""
        if len(self._times) >= _STEPS:
            return
        start, busy = self._begin
        self._times.append((time.perf_counter() - start, time.process_time() - busy))
        if len(self._times) == _STEPS:
            complaint = self._work.complaint(*min(self._times))
            if complaint is not None:
                logger.warning("%s", complaint)


def step_work(trainer: Any, speed: TorchSpeed, processes: int) -> StepWork:
    """What one step of an equipped trainer multiplies in each of some processes."""
    return StepWork(
        parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
        tokens=trainer.tokens_per_step / processes,
        threads=torch.get_num_threads(),
        numerics=trainer.numerics,
        speed=speed,
    )
