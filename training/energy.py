"""Energy that the machine took, from counters that it keeps anyway: processor, memory, GPU.

The counters count the whole machine, other programs included. Where there is none, or none that
this user may read, nothing is guessed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pynvml
import torch

POWERCAP = Path("/sys/class/powercap")

ReadJoules = Callable[[], float]  # since whenever the counter began


def processor_counters(folder: Path = POWERCAP) -> list["RaplCounter"]:
    """The counters of the processor packages and their memory that this user may read.

    Cores and graphics units are parts of their package, so they are left out; `psys`, the whole
    board, exists on few machines and holds the packages too.

    Source: Linux, Documentation/power/powercap/powercap.rst. Intel and AMD processors have them.
    """
    counters = []
    for zone in sorted(folder.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text(encoding="ascii").strip()
            if name.startswith("package") or name == "dram":
                counters.append(RaplCounter(zone))
        except OSError:  # since Linux 5.10 most systems let root alone read them
            continue
    return counters


@dataclass(slots=True)
class RaplCounter:
    """One zone; it must be read before it has wrapped twice, in half an hour at 150 W."""

    zone: Path
    _range: int = field(init=False)
    _last: int = field(init=False)
    _total: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._range = self._microjoules("max_energy_range_uj")
        self._last = self._microjoules("energy_uj")

    def __call__(self) -> float:
        """Joules since this object was made.

        With a range of 1,000 µJ, readings of 900, 950 and 100 are 200 µJ.
        """
        now = self._microjoules("energy_uj")
        self._total += now - self._last if now >= self._last else now + self._range - self._last
        self._last = now
        return self._total / 1e6

    def _microjoules(self, name: str) -> int:
        return int((self.zone / name).read_text(encoding="ascii"))


def gpu_counters(device: str) -> list[ReadJoules]:
    """The counter of the GPU that this process trains on; none on a CPU or a GPU without."""
    if device != "cuda":
        return []
    try:
        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return []
    return [lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000]


class EnergyMeter:
    """Adds up counters from the moment when it is made."""

    def __init__(self, counters: Sequence[ReadJoules]) -> None:
        self._counters = counters
        self._start = sum(counter() for counter in counters)

    def read(self) -> float | None:
        """Joules; None without a counter."""
        if not self._counters:
            return None
        return sum(counter() for counter in self._counters) - self._start
