"""The machine while a run lasts: threads, number format of products and allocator of the CPU."""

import ctypes
import platform
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@contextmanager
def training_session(num_threads: int | None) -> Iterator[None]:
    """Set this process up for training and put it back afterwards.

    Args:
        num_threads: CPU threads; None leaves torch's own choice.
    """
    before = torch.get_num_threads()
    bars = transformers_logging.is_progress_bar_enabled()
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    # One bar is shown, the run's own, not one per saved file.
    transformers_logging.disable_progress_bar()
    try:
        with _keep_freed_memory(), warnings.catch_warnings():
            # TRL and PEFT still use names that transformers has deprecated.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
            yield
    finally:
        torch.set_num_threads(before)
        if bars:
            transformers_logging.enable_progress_bar()


def autocast(products: torch.dtype, device: str = "cpu") -> AbstractContextManager[Any]:
    """Compute matrix products in a format; weights and sums stay fp32.

    Args:
        products: float32 or bfloat16.
        device: cpu or cuda.
    """
    return torch.autocast(device, torch.bfloat16, enabled=products == torch.bfloat16)


@contextmanager
def _keep_freed_memory() -> Iterator[None]:
    """Let the C library keep what torch frees instead of asking the system for it every step.

    By default each large tensor is mapped and unmapped anew: a step of the 3m model took 672 ms
    instead of 480 ms, page faults being the difference.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(_M_TRIM_THRESHOLD, 128 << 10)
        libc.malloc_trim(0)
