"""What this machine is called by those who write its name beside a number, and what it has."""

import os
import platform
from pathlib import Path

import psutil
from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

_CPUINFO = Path("/proc/cpuinfo")
# Those that decide which kernels a product gets, as numpy names them.
_DECIDING = (
    "AVX", "AVX2", "FMA3", "F16C", "AVX512F", "AVX512BW", "AVX512VL", "AVX512VNNI", "AVX512BF16",
    "NEON", "ASIMD", "ASIMDHP", "ASIMDDP", "SVE", "VSX", "VX",
)  # fmt: skip
# Those that numpy does not ask for, as Linux names them.
_FURTHER = ("avx_vnni", "amx_tile", "amx_int8", "amx_bf16", "i8mm", "bf16")


def processor() -> str:
    """The processor's name: as Linux tells it, else as Python does."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def memory() -> str:
    """How much memory the machine has, in whole GiB."""
    return f"{psutil.virtual_memory().total / (1 << 30):.0f} GiB"


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def instruction_sets() -> tuple[str, ...]:
    """The instruction sets that decide how fast products are.

    numpy asks the processor itself (CPUID). Linux names more of them, but inside an emulator of
    another processor it names the host's, so its list counts only where numpy found AVX-512 too or
    where the processor is no x86 one.
    """
    features: dict[str, bool] = getattr(_multiarray_umath, "__cpu_features__", {})
    found = [name for name in _DECIDING if features.get(name)]
    if features.get("AVX512F") or not features.get("SSE2"):
        told = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
        found += [name.upper() for name in _FURTHER if name in told]
    return tuple(found)


def _cpuinfo(name: str) -> str:
    """The first entry of that name in /proc/cpuinfo; empty without one."""
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text(encoding="utf-8").split("\n"):
            if line.startswith(name):
                return line.split(":", 1)[1].strip()
    return ""
