"""The file beside a graph that holds its large tensors, written one tensor at a time.

A graph in memory then holds names and offsets only, so the size of a model is bounded by the disk
and not by the memory, nor by protobuf's 2 GiB.
"""

from pathlib import Path
from types import TracebackType

import numpy as np
from onnx import TensorProto, external_data_helper, helper

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector register


class ExternalData:
    """Appends tensors to a new file; use it as a context."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")

    def __enter__(self) -> "ExternalData":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def append(self, name: str, value: np.ndarray) -> TensorProto:
        """Write an array; give the initializer that points to it."""
        self._file.write(b"\0" * (-self._file.tell() % _ALIGNMENT))
        offset = self._file.tell()
        self._file.write(np.ascontiguousarray(value).data)
        tensor = TensorProto(
            name=name, data_type=helper.np_dtype_to_tensor_dtype(value.dtype), dims=value.shape
        )
        tensor.raw_data = b""  # onnx wants the field before it takes a location
        external_data_helper.set_external_data(
            tensor, self._path.name, offset=offset, length=value.nbytes
        )
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        return tensor
