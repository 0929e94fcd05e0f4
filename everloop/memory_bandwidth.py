"""How fast memory is read: the limit of everything that multiplies few rows with many weights."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_BYTES = 256 << 20  # far beyond most caches
_TRIES = 5


def memory_bandwidth(cores: int) -> float:
    """Read a block of memory with all cores, and give the best of some tries in GB/s."""
    blocks = np.array_split(np.ones(_BYTES // 4, np.float32), cores)
    seconds = []
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(_TRIES):
            started = time.perf_counter()
            list(pool.map(np.max, blocks))
            seconds.append(time.perf_counter() - started)
    return round(_BYTES / min(seconds) / 1e9, 1)
