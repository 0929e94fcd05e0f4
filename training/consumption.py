"""What a run costs besides wall-clock time: processor time and energy, its earlier sessions too."""
# ruff: noqa: ARG002 - the Trainer calls every hook with all of its arguments

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.distributed import mean_over_processes, world_size
from training.energy import EnergyMeter, gpu_counters, processor_counters

_KEYS = ("cpu_seconds", "energy_joules", "gpu_joules")


class ConsumptionCallback(TrainerCallback):
    """Counts from the moment when it is made, and keeps the counts in the saved states.

    `cpu_seconds` are those of this process, `energy_joules` those of the machine's processors and
    memory, `gpu_joules` those of this process's GPU; what cannot be measured is left out.
    """

    def __init__(self, device: str) -> None:
        self._cpu_start = time.process_time()
        self._processor = EnergyMeter(processor_counters())
        self._gpu = EnergyMeter(gpu_counters(device))
        self._before: dict[str, float] = {}

    def read(self) -> dict[str, float]:
        """The counts so far."""
        now = (time.process_time() - self._cpu_start, self._processor.read(), self._gpu.read())
        return {
            key: round(value + self._before.get(key, 0.0), 1)
            for key, value in zip(_KEYS, now, strict=True)
            if value is not None
        }

    def total(self) -> dict[str, float]:
        """The counts of all processes that train together; those of one machine's energy."""
        counts = self.read()
        for key in counts.keys() - {"energy_joules"}:
            counts[key] = round(mean_over_processes(counts[key]) * world_size(), 1)
        return counts

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over what earlier sessions of this run have counted."""
        for entry in state.log_history:
            self._before |= {key: entry[key] for key in _KEYS if key in entry}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read the counters, since they wrap."""
        self.read()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put the counts into the entry that was just logged."""
        state.log_history[-1] |= self.read()
