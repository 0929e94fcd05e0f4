"""Arrays of zeros whose pages take memory only once written, and give it back with the array."""

import math
import mmap
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def fresh_zeros(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Make an array in pages of its own, straight from the system.

    numpy's zeros come from the C library, which writes them when it uses memory again that a model
    version before has left: then a cache for all slots is resident before the first request.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not size:
        return np.zeros(shape, dtype)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, dtype).reshape(shape)
