"""What a report says about the machine that it was written on."""

import os
import platform

import torch

from everloop.machine import memory, processor


def hardware(threads: str | None) -> dict[str, str]:
    """Describe the machine that this process runs on, and the threads that a run had of it."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "threads of the run": threads or "all cores",
        "memory": memory(),
        "GPU": gpu,
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    }
