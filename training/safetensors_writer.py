"""Write a safetensors file tensor by tensor, so that one tensor is in memory at a time.

The library's own writer takes all tensors at once. The format is eight bytes with the length of a
JSON header, the header, and the values: https://huggingface.co/docs/safetensors
"""

import json
import struct
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np

FloatName = Literal["F32", "F16", "BF16"]
SIZE_BYTES: Mapping[FloatName, int] = {"F32": 4, "F16": 2, "BF16": 2}


def write_safetensors(
    path: Path,
    tensors: Mapping[str, tuple[FloatName, tuple[int, ...]]],
    read: Callable[[str], np.ndarray],
) -> None:
    """Write a file of floating-point tensors.

    Args:
        path: the file, which is made anew.
        tensors: name to dtype and shape, in the order in which they are written.
        read: gives the values of a name, in its dtype; those of BF16 as their 16 bits.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + SIZE_BYTES[dtype] * prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    content = json.dumps(header).encode("utf-8")
    content += b" " * (-len(content) % 8)  # the values begin at a multiple of eight bytes
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(content)))
        file.write(content)
        for name in tensors:
            file.write(np.ascontiguousarray(read(name)).data)
