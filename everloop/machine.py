"""What this machine is called by those who write its name beside a number."""

import platform
from pathlib import Path

import psutil

_CPUINFO = Path("/proc/cpuinfo")


def processor() -> str:
    """The processor's name: as Linux tells it, else as Python does."""
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def memory() -> str:
    """How much memory the machine has, in whole GiB."""
    return f"{psutil.virtual_memory().total / (1 << 30):.0f} GiB"
