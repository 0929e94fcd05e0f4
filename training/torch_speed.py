"""Measure matrix products by torch, for the machine's record."""

import time
from collections.abc import Callable
from functools import partial

import torch

from everloop.machine_record import MachineRecord, TorchSpeed, measured_record

# A product as the layers of a model of some million parameters have it.
_ROWS, _INNER, _COLUMNS = 1024, 384, 1024
_GFLOP = 2.0 * _ROWS * _INNER * _COLUMNS / 1e9
_ROUNDS = 12
# Imitated formats take a second for one product: enough is known after that.
_ENOUGH_SECONDS = 0.3


def torch_record(*, again: bool = False) -> MachineRecord:
    """The machine's record with torch's products, measured if they are not known.

    Args:
        again: measure although they are known.
    """
    return measured_record("torch", measure_torch, again=again)


def measure_torch() -> TorchSpeed:
    """Multiply matrices in turn in every format, and take the best of each; about a second.

    In turn, because the speed of a machine that others use drifts: the ratios matter most.
    """
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(_ROWS, _INNER, generator=generator)
    right = torch.randn(_COLUMNS, _INNER, generator=generator).T
    products: dict[str, Callable[[], object]] = {
        "fp32": partial(torch.mm, left, right),
        "bf16": partial(torch.mm, left.bfloat16(), right.bfloat16()),
    }
    if _has_int8_product():
        factors = (left * 30).to(torch.int8), (right * 30).to(torch.int8)
        products["int8"] = partial(torch._int_mm, *factors)
    seconds: dict[str, list[float]] = {name: [] for name in products}
    with torch.inference_mode():
        for _ in range(_ROUNDS):
            for name, product in products.items():
                if sum(seconds[name]) < _ENOUGH_SECONDS:
                    seconds[name].append(_time(product))
    speeds = {name: round(_GFLOP / min(times), 2) for name, times in seconds.items()}
    return TorchSpeed(version=str(torch.__version__), threads=torch.get_num_threads(), **speeds)


def _has_int8_product() -> bool:
    ones = torch.ones(32, 32, dtype=torch.int8)
    try:
        torch._int_mm(ones, ones)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return True


def _time(product: Callable[[], object]) -> float:
    started = time.perf_counter()
    product()
    return time.perf_counter() - started
