"""`everloop doctor`."""

from typing import TYPE_CHECKING, Annotated

import typer

from everloop.cli_options import JsonOption, report

if TYPE_CHECKING:
    from everloop.machine_record import MachineRecord
    from training.numerics import Numerics


def doctor(
    again: Annotated[
        bool, typer.Option("--again", help="Measure anew what is known already.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine computes fast, and what training chooses for it."""
    from serving.engine.product_speed import onnxruntime_record
    from training.numerics import choose_numerics
    from training.torch_speed import torch_record

    torch_record(again=again)
    record = onnxruntime_record(again=again)
    chosen = choose_numerics("cpu", record)
    if as_json:
        report({**record.model_dump(), "training": chosen.model_dump()}, as_json)
    else:
        report(_lines(record, chosen), as_json)


def _lines(record: "MachineRecord", chosen: "Numerics") -> dict[str, object]:
    lines: dict[str, object] = {
        "processor": record.processor,
        "instructions": " ".join(record.instructions),
        "cores": record.cores,
        "memory": f"{record.memory_bytes / (1 << 30):.1f} GiB",
        "memory bandwidth": f"{record.memory_gb_per_second or 0:.0f} GB/s",
    }
    if record.torch is not None:
        torch = record.torch
        lines[f"torch {torch.version}"] = (
            f"fp32 {torch.fp32:,.0f}, bf16 {torch.bf16:,.1f} GFLOP/s on {torch.threads} threads"
        )
        times = torch.bf16 / torch.fp32
        lines["training"] = (
            f"{chosen.products} products, {chosen.muon} in Muon: bf16 is {times:.2f} times as fast "
            "as fp32, and 2 times are wanted"
        )
    if record.onnxruntime is not None:
        runtime = record.onnxruntime
        lines[f"onnxruntime {runtime.version}"] = [
            f"{one.rows} rows: fp32 {one.fp32:,.0f}, int8 {one.int8:,.0f} GFLOP/s"
            for one in runtime.products
        ]
    return lines
