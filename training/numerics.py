"""In which number formats a run computes: chosen by what the machine does well, kept for its life.

bf16 moves results, so it is chosen only where its products were measured at least twice as fast as
fp32's (`everloop.machine_record`). What was chosen lies in the run's folder: a run that goes on,
on whatever machine, computes as it began.
"""

import json
import logging
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from everloop.errors import ArtifactError
from everloop.machine_record import MachineRecord
from training.distributed import from_main_process
from training.run_folder import RunFolder
from training.torch_speed import torch_record

logger = logging.getLogger(__name__)

Format = Literal["fp32", "bf16"]

DTYPES: dict[Format, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Numerics(BaseModel):
    """The formats of a run.

    Attributes:
        products: of the matrix products inside the network (autocast); weights stay fp32.
        muon: of the products with which Muon makes its updates orthogonal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    products: Format = "fp32"
    muon: Format = "fp32"

    @property
    def as_settings(self) -> dict[str, str]:
        """As they stand among the settings of a checkpoint."""
        return {f"numerics.{name}": value for name, value in self.model_dump().items()}


def choose_numerics(device: str, record: MachineRecord | None = None) -> Numerics:
    """The formats for a new run on this machine.

    Args:
        device: cpu or cuda; a GPU says itself whether it computes in bf16.
        record: of the CPU; None to read or measure it.
    """
    if device == "cuda":
        is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        speed = (record or torch_record()).torch
        is_fast = speed is not None and speed.bf16_is_clearly_faster
    return Numerics(products="bf16", muon="bf16") if is_fast else Numerics()


def settle_numerics(run: RunFolder, device: str) -> Numerics:
    """The formats of this run: what it began with, or in a new run what suits the machine.

    Of several processes, the main one says it for all.

    Raises:
        ArtifactError: the run's file about them cannot be read.
    """
    return from_main_process(lambda: _stored(run) or _store(run, choose_numerics(device)))


def _stored(run: RunFolder) -> Numerics | None:
    if not run.numerics.is_file():
        return None
    try:
        return Numerics.model_validate_json(run.numerics.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise ArtifactError(
            f"{run.numerics} does not say in which formats the run computes; expected products "
            "and muon, each fp32 or bf16. Name another run, or delete the folder."
        ) from error


def _store(run: RunFolder, numerics: Numerics) -> Numerics:
    partial = run.numerics.with_suffix(".partial")
    partial.write_text(json.dumps(numerics.model_dump(), indent=1), encoding="utf-8")
    partial.rename(run.numerics)
    logger.info("run=%s products=%s muon=%s", run.path.name, numerics.products, numerics.muon)
    return numerics
