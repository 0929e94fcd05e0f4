"""What this machine does well, and what follows from it: the answer of `everloop doctor`."""

from importlib.util import find_spec
from typing import Any

from rich.progress import Progress

from everloop.machine import memory
from everloop.machine_record import CLEAR_GAIN, MachineRecord, installed_version, load_record
from everloop.records import Record

_LIBRARIES = ("torch", "transformers", "onnxruntime", "numpy")


class Choice(Record):
    """One thing that the machine decides, with the reason."""

    what: str
    chosen: str
    why: str


class Diagnosis(Record):
    """The machine's record, the versions that it was measured with, and the choices."""

    record: MachineRecord
    versions: dict[str, str]
    choices: tuple[Choice, ...]

    @property
    def lines(self) -> dict[str, Any]:
        """For people: the record, a line for each number."""
        record = self.record
        lines: dict[str, Any] = {
            "processor": f"{record.processor}, {record.cores} cores usable",
            "instructions": ", ".join(record.instructions) or "none that decide",
            "memory": f"{memory()}, {record.memory_gb_per_second or 0:.0f} GB/s",
            "versions": ", ".join(f"{name} {number}" for name, number in self.versions.items()),
            "measured": record.measured_at or "never",
            "kept in": record.path,
        }
        return lines

    @property
    def products(self) -> list[dict[str, str]]:
        """For people: GFLOP/s of every measured product, a row each."""
        rows = []
        if (torch := self.record.torch) is not None:
            int8 = "" if torch.int8 is None else f"{torch.int8:,.1f}"
            speeds = {"fp32": f"{torch.fp32:,.1f}", "bf16": f"{torch.bf16:,.1f}", "int8": int8}
            rows.append({"GFLOP/s": "torch, 1024 rows", **speeds})
        runtime = self.record.onnxruntime
        for product in () if runtime is None else runtime.products:
            speeds = {"fp32": f"{product.fp32:,.1f}", "bf16": "", "int8": f"{product.int8:,.1f}"}
            rows.append({"GFLOP/s": f"ONNX Runtime, {product.rows} rows", **speeds})
        return rows


def examine(*, again: bool, progress: Progress) -> Diagnosis:
    """Measure what is not known of this machine, and say what follows.

    Args:
        again: measure what is known, too.
        progress: shows what is being measured.
    """
    has_torch = find_spec("torch") is not None
    bar = progress.add_task("torch's products", total=1 + has_torch)
    choices: list[Choice] = []
    if has_torch:  # a machine that serves only has none
        from training.torch_speed import torch_record

        torch_record(again=again)
        progress.advance(bar)
        choices += _training_choices()
    progress.update(bar, description="ONNX Runtime's products")
    from serving.engine.product_speed import onnxruntime_record

    onnxruntime_record(again=again)
    progress.advance(bar)
    record = load_record()
    versions = {name: installed_version(name) or "not installed" for name in _LIBRARIES}
    return Diagnosis(
        record=record, versions=versions, choices=(*choices, *_serving_choices(record))
    )


def _training_choices() -> list[Choice]:
    from training.distributed import choose_device
    from training.numerics import choose_numerics

    device = choose_device(None)
    numerics = choose_numerics(device)
    record = load_record()
    speed = record.torch
    if device == "cuda" or speed is None:
        why = "the GPU says whether it computes in bf16"
    else:
        why = (
            f"bf16 is {speed.bf16 / speed.fp32:.2f} times as fast as fp32; it changes results and "
            f"is taken from {CLEAR_GAIN:g} on"
        )
    return [
        Choice(what="training: products", chosen=numerics.products, why=why),
        Choice(what="training: Muon", chosen=numerics.muon, why=why),
        Choice(
            what="training: threads",
            chosen=str(speed.threads if speed else record.cores),
            why="torch's own choice, all physical cores; num_threads overrides",
        ),
    ]


def _serving_choices(record: MachineRecord) -> list[Choice]:
    from serving.engine.config import EngineConfig

    config = EngineConfig()
    choices = [
        Choice(
            what="engine: threads",
            chosen=str(config.threads),
            why="physical cores that this process may use; engine.num_threads overrides",
        )
    ]
    runtime = record.onnxruntime
    if runtime is not None:
        gains = ", ".join(f"{one.int8_gain:.2f} at {one.rows}" for one in runtime.products)
        start = runtime.fp32_is_faster_from
        choices.append(
            Choice(
                what="engine: faster products",
                chosen="int8" if start is None else f"int8, from {start} rows on fp32",
                why=f"int8 is so many times as fast as fp32: {gains} rows",
            )
        )
    return choices
