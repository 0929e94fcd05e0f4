"""What a report says about the machine that it was written on."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path

import psutil
import torch


def hardware(settings: Mapping[str, str]) -> dict[str, str]:
    """Describe the machine that this process runs on.

    Args:
        settings: of a run, for its number of threads.
    """
    threads = next(
        (value for key, value in settings.items() if key.endswith(".num_threads")), "None"
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads of the run": "all cores" if threads == "None" else threads,
        "memory": f"{psutil.virtual_memory().total / (1 << 30):.0f} GiB",
        "GPU": gpu,
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
