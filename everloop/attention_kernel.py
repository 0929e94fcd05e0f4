"""Which of its two attention kernels for the CPU ONNX Runtime takes."""

import os

_VARIABLE = "ORT_GQA_DISABLE_FLASH_ATTENTION"


def choose_attention_kernel() -> None:
    """Let sessions that are opened from now on compute all scores of a query at once.

    By default ONNX Runtime 1.32 computes them tile by tile, and those of a single query by a loop
    that does not use the processor's widest registers. All at once, a decode step is faster, and a
    query's result is the same to the last bit in any company. It takes 4 bytes for every query,
    head and token that the cache has room for. A user who sets the variable has the last word.
    """
    os.environ.setdefault(_VARIABLE, "1")
