"""Several processes that train one model: who writes, and a clock that all of them share.

`torchrun --nproc-per-node 2 -m everloop train …` starts them; transformers' Trainer joins them by
DDP. Nothing here is needed, or done, in a process that trains alone.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from everloop.errors import ConfigError
from training.config import OptimizerConfig

T = TypeVar("T")


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this is the process that writes files and shows progress."""
    return int(os.environ.get("RANK", "0")) == 0


def barrier() -> None:
    """Wait until all processes are here."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()


def device_of(config: OptimizerConfig) -> str:
    """The device that a run trains on, cpu or cuda.

    Raises:
        ConfigError: a GPU is asked for and there is none, or FSDP is asked for on CPUs.
    """
    device = choose_device(config.device)
    if config.device == "cuda" and device == "cpu":
        raise ConfigError('device = "cuda": torch sees no GPU here. Use "cpu" or "auto".')
    if config.parallel == "fsdp" and device == "cpu":
        raise ConfigError(
            'parallel = "fsdp" shards a model over GPUs; on CPUs transformers would silently train '
            'by DDP instead. Use "ddp".'
        )
    return device


def choose_device(wanted: str | None) -> str:
    """The GPU if there is one and the CPU is not asked for: cpu or cuda."""
    return "cuda" if torch.cuda.is_available() and wanted != "cpu" else "cpu"


def mean_over_processes(value: float) -> float:
    """The mean of a number over all processes, so that all of them decide alike."""
    if world_size() == 1 or not distributed.is_initialized():
        return value
    total = torch.tensor([value], dtype=torch.float64, device=_device())
    distributed.all_reduce(total)
    return total.item() / world_size()


def from_main_process(value: Callable[[], T]) -> T:
    """What the main process finds, in all of them; it alone looks."""
    if world_size() == 1 or not distributed.is_initialized():
        return value()
    found = [value() if is_main_process() else None]
    distributed.broadcast_object_list(found, src=0, device=torch.device(_device()))
    return found[0]  # type: ignore[return-value]


def share_work(
    tensors: Sequence[torch.Tensor],
    work: Callable[[torch.Tensor], torch.Tensor],
    dtype: torch.dtype,
) -> list[torch.Tensor]:
    """Do the same work on every tensor: of n processes each does every n-th and sends the result.

    All processes end with the same bits. Tensors that are sharded over the processes (FSDP) are
    worked on by all.

    Args:
        tensors: the same ones in all processes.
        work: keeps the shape.
        dtype: of its results.
    """
    size = world_size() if distributed.is_initialized() else 1
    if size == 1 or any(isinstance(tensor, DTensor) for tensor in tensors):
        return [work(tensor) for tensor in tensors]
    rank = distributed.get_rank()
    results = [
        work(tensor).contiguous()
        if index % size == rank
        else torch.empty(tensor.shape, dtype=dtype, device=tensor.device)
        for index, tensor in enumerate(tensors)
    ]
    for index, result in enumerate(results):
        distributed.broadcast(result, src=index % size)
    return results


class SharedClock:
    """Seconds since a run began, on which all of its processes agree to the last bit.

    They must: the learning rate and the end of a run by the clock follow from it. The time moves
    at `tick` alone, which all processes call at the same places.
    """

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._now = 0.0

    def __call__(self) -> float:
        """The time of the last tick; in a process alone, of now."""
        return self._now if world_size() > 1 else time.monotonic() - self._begin

    def tick(self) -> None:
        """Take over the main process's time."""
        if world_size() > 1 and distributed.is_initialized():
            seconds = time.monotonic() - self._begin
            now = torch.tensor([seconds], dtype=torch.float64, device=_device())
            distributed.broadcast(now, src=0)
            self._now = now.item()


def _device() -> str:
    return "cuda" if distributed.get_backend() == "nccl" else "cpu"
