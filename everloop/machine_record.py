"""What this machine computes fast: measured once, remembered in a file, read by every choice.

The file lies in the user's cache folder (`EVERLOOP_CACHE_FOLDER`, else `$XDG_CACHE_HOME/everloop`,
else `~/.cache/everloop`), one for each processor, set of instructions and number of cores. What was
measured of a library is forgotten once another version of it is installed. A record that cannot be
written is measured again next time; that is no failure.

`training.torch_speed` measures torch, `serving.engine.product_speed` ONNX Runtime. Neither is
imported here, so that everything may read the record: `load_record().onnxruntime` is None until it
was measured.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, Self

import psutil
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from everloop.machine import instruction_sets, processor, usable_cores
from everloop.memory_bandwidth import memory_bandwidth
from everloop.settings import Settings

# A choice that changes results is taken only where it was measured this many times as fast.
CLEAR_GAIN = 2.0
_LOCK_SECONDS = 30.0

logger = logging.getLogger(__name__)

Library = Literal["torch", "onnxruntime"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TorchSpeed(_Record):
    """Matrix products by torch, in GFLOP/s: a multiplication and an addition are two operations.

    Attributes:
        version: of torch.
        threads: that took part.
        fp32: single precision.
        bf16: factors in bfloat16; slower than fp32 where the processor imitates it.
        int8: factors in int8, sums in int32; None where this torch has no such product.
    """

    version: str
    threads: int
    fp32: float
    bf16: float
    int8: float | None = None

    @property
    def bf16_is_clearly_faster(self) -> bool:
        """Whether bf16 may be chosen although it changes results."""
        return self.bf16 >= CLEAR_GAIN * self.fp32


class ProductSpeed(_Record):
    """Products of some rows with a matrix by ONNX Runtime, in GFLOP/s.

    Attributes:
        rows: tokens that are multiplied at once.
        fp32: by MatMul.
        int8: by MatMulNBits, 8 bits in blocks of 32, activations rounded to 8 bits.
    """

    rows: int
    fp32: float
    int8: float

    @property
    def int8_gain(self) -> float:
        """How many times as fast int8 is as fp32."""
        return self.int8 / self.fp32


class OnnxRuntimeSpeed(_Record):
    """Matrix products by ONNX Runtime.

    Attributes:
        version: of ONNX Runtime.
        threads: that took part.
        products: by ascending rows.
    """

    version: str
    threads: int
    products: tuple[ProductSpeed, ...]

    def at(self, rows: int) -> ProductSpeed:
        """The measured number of rows that is nearest to the given one, by ratio."""
        return min(self.products, key=lambda one: max(one.rows / rows, rows / one.rows))

    @property
    def fp32_is_faster_from(self) -> int | None:
        """The measured rows from which on fp32 stays faster than int8; None where it never is."""
        first = None
        for product in reversed(self.products):
            if product.int8_gain >= 1:
                break
            first = product.rows
        return first


class MachineRecord(_Record):
    """What is known about one machine.

    Attributes:
        processor: its name.
        instructions: the sets that decide how fast products are, such as AVX2 or AVX512VNNI.
        cores: that this process may use.
        memory_bytes: of the machine.
        memory_gb_per_second: read by all cores together; None until something was measured.
        measured_at: UTC time of the newest measurement, ISO 8601.
        torch: None until it was measured.
        onnxruntime: None until it was measured.
    """

    processor: str
    instructions: tuple[str, ...]
    cores: int
    memory_bytes: int
    memory_gb_per_second: float | None = None
    measured_at: str | None = None
    torch: TorchSpeed | None = None
    onnxruntime: OnnxRuntimeSpeed | None = None

    @classmethod
    def of_this_machine(cls) -> Self:
        """A record in which nothing is measured yet."""
        return cls(
            processor=processor(),
            instructions=instruction_sets(),
            cores=usable_cores(),
            memory_bytes=int(psutil.virtual_memory().total),
        )

    @property
    def path(self) -> Path:
        """Where it is kept."""
        identity = json.dumps([self.processor, self.instructions, self.cores])
        name = hashlib.sha256(identity.encode()).hexdigest()[:12]
        return Settings().cache_folder / f"machine-{name}.json"


def load_record() -> MachineRecord:
    """Read what is known about this machine; what other library versions did is left out."""
    empty = MachineRecord.of_this_machine()
    try:
        record = MachineRecord.model_validate_json(empty.path.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return empty
    stale = {
        library: None
        for library in ("torch", "onnxruntime")
        if (part := getattr(record, library)) and part.version != installed_version(library)
    }
    return record.model_copy(update={**stale, "memory_bytes": empty.memory_bytes})


def measured_record(
    library: Library,
    measure: Callable[[], TorchSpeed | OnnxRuntimeSpeed],
    *,
    again: bool = False,
) -> MachineRecord:
    """The record with the products of a library, which are measured now if they are not known.

    Of several processes one measures, and the others wait for it.

    Args:
        library: whose products are wanted.
        measure: does it.
        again: measure although it is known.
    """
    record = load_record()
    if getattr(record, library) is not None and not again:
        return record
    with _locked(record.path):
        record = load_record()
        if getattr(record, library) is None or again:
            update = {
                library: measure(),
                "memory_gb_per_second": memory_bandwidth(record.cores),
                "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            record = record.model_copy(update=update)
            _write(record)
    return record


def installed_version(library: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the record's lock, or go on without where the folder cannot be written."""
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=_LOCK_SECONDS)
    except (OSError, Timeout) as error:
        logger.debug("machine record not locked: %s", error)
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _write(record: MachineRecord) -> None:
    partial = record.path.with_suffix(f".{os.getpid()}")
    try:
        partial.write_text(record.model_dump_json(indent=1), encoding="utf-8")
        partial.replace(record.path)
    except OSError as error:
        logger.info("machine record not kept, it will be measured again: %s", error)
