"""A GGUF file: its metadata and where each tensor lies. Tensors are mapped, not read.

The gguf package's own reader makes NumPy views of every string: 2.1 s and 167 MB for the 49,152
tokens and 48,900 merges of SmolLM2. Only the header is read here; types, block sizes and
dequantization are the package's.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType

from everloop.errors import ArtifactError

MAGIC = b"GGUF"
_VERSIONS = (2, gguf.GGUF_VERSION)
_SCALARS: Mapping[GGUFValueType, str] = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}
# Read as they are: dtype of their values. BF16 has none in NumPy, so its bits are kept.
PLAIN_DTYPES: Mapping[GGMLQuantizationType, type[np.generic]] = {
    GGMLQuantizationType.F32: np.float32,
    GGMLQuantizationType.F16: np.float16,
    GGMLQuantizationType.BF16: np.uint16,
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies.

    Attributes:
        kind: how its values are stored.
        shape: outermost first, as NumPy and torch have it; the file has it the other way round.
        start: byte of the file.
        size_bytes: of the stored values.
    """

    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    start: int
    size_bytes: int


class GgufFile:
    """The header of one file, and its mapped tensors.

    Attributes:
        metadata: by key; arrays are lists.
        tensors: by name.
    """

    def __init__(
        self,
        path: Path,
        data: mmap.mmap,
        metadata: Mapping[str, Any],
        tensors: Mapping[str, StoredTensor],
    ) -> None:
        """Wrap a header that was read; see `read`."""
        self.path = path
        self.metadata = metadata
        self.tensors = tensors
        self._data = data

    @classmethod
    def read(cls, path: Path) -> "GgufFile":
        """Map a file and read its header.

        Raises:
            ArtifactError: it is absent, no GGUF, cut short, of a version or with a quantization
                that is not known, or one of several parts.
        """
        data = _map(path)
        _check_version(path, data)
        try:
            metadata, tensors = _read_header(path, data)
        except (struct.error, UnicodeDecodeError, OverflowError, MemoryError) as error:
            raise ArtifactError(
                f"{path} is cut short or damaged: its header cannot be read to its end. "
                "Copy the file again."
            ) from error
        _check_extents(path, len(data), tensors)
        _check_kind(path, metadata)
        return cls(path, data, metadata, tensors)

    def plain(self, name: str) -> np.ndarray:
        """The values of a tensor whose type is in `PLAIN_DTYPES`, as a view of the mapped file."""
        tensor = self.tensors[name]
        dtype = np.dtype(PLAIN_DTYPES[tensor.kind])
        values = np.frombuffer(self._data, dtype, prod(tensor.shape), tensor.start)
        return values.reshape(tensor.shape)

    def values(self, name: str) -> np.ndarray:
        """The values of a tensor as float32."""
        tensor = self.tensors[name]
        if tensor.kind == GGMLQuantizationType.F32:
            return self.plain(name)
        stored = np.frombuffer(self._data, np.uint8, tensor.size_bytes, tensor.start)
        rows = stored.reshape(-1, tensor.size_bytes // max(1, prod(tensor.shape[:-1])))
        return gguf.quants.dequantize(rows, tensor.kind).reshape(tensor.shape)


def is_gguf(path: Path) -> bool:
    """Whether a path is a file that is, or calls itself, a GGUF."""
    if not path.is_file():
        return False
    if path.suffix.lower() == ".gguf":
        return True
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: it is empty
        raise ArtifactError(f"{path} cannot be read: {error}.") from error


def _check_version(path: Path, data: mmap.mmap) -> None:
    if data[: len(MAGIC)] != MAGIC:
        raise ArtifactError(
            f"{path} is no GGUF file: it begins with {data[: len(MAGIC)]!r} instead of {MAGIC!r}."
        )
    if len(data) < 24:
        raise ArtifactError(f"{path} is cut short: it has {len(data)} bytes. Copy the file again.")
    (version,) = struct.unpack_from("<I", data, len(MAGIC))
    if not version & 0xFFFF:
        raise ArtifactError(f"{path} is a GGUF file for big-endian processors. Convert it again.")
    if version not in _VERSIONS:
        age = "newer" if version > max(_VERSIONS) else "older"
        raise ArtifactError(
            f"{path} has format version {version}, which is {age} than the supported ones "
            f"({', '.join(map(str, _VERSIONS))}). Convert the model again in one of these."
        )


class _Cursor:
    """A place in the header that moves on with every value read."""

    def __init__(self, data: mmap.mmap, position: int) -> None:
        self.data = data
        self.position = position

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self.data, self.position)
        self.position += struct.calcsize(f"<{code}")
        return value

    def raw(self, length: int) -> bytes:
        if length > len(self.data) - self.position:
            raise struct.error("the file ends before the value does")
        start, self.position = self.position, self.position + length
        return self.data[start : self.position]

    def text(self) -> str:
        return self.raw(self.scalar("Q")).decode("utf-8")

    def value(self, kind: GGUFValueType) -> Any:
        if kind == GGUFValueType.STRING:
            return self.text()
        if kind != GGUFValueType.ARRAY:
            return self.scalar(_SCALARS[kind])
        inner, count = self.kind(), self.scalar("Q")
        if inner in _SCALARS:
            dtype = np.dtype(_SCALARS[inner]).newbyteorder("<")
            return np.frombuffer(self.raw(count * dtype.itemsize), dtype).tolist()
        return [self.value(inner) for _ in range(count)]

    def kind(self) -> GGUFValueType:
        number = self.scalar("I")
        try:
            return GGUFValueType(number)
        except ValueError as error:
            raise struct.error(f"a value has the unknown type {number}") from error


def _read_header(path: Path, data: mmap.mmap) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
    cursor = _Cursor(data, len(MAGIC) + 4)
    tensor_count, value_count = cursor.scalar("Q"), cursor.scalar("Q")
    metadata: dict[str, Any] = {}
    for _ in range(value_count):
        key = cursor.text()
        metadata[key] = cursor.value(cursor.kind())
    found = []
    for _ in range(tensor_count):
        name = cursor.text()
        dimensions = [cursor.scalar("Q") for _ in range(cursor.scalar("I"))]
        found.append((name, tuple(reversed(dimensions)), cursor.scalar("I"), cursor.scalar("Q")))
    alignment = metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    start = -(-cursor.position // alignment) * alignment
    known = {number: _quantization(path, name, number) for name, _, number, _ in found}
    tensors = {
        name: StoredTensor(known[number], shape, start + offset, _size(known[number], shape))
        for name, shape, number, offset in found
    }
    return metadata, tensors


def _quantization(path: Path, name: str, number: int) -> GGMLQuantizationType:
    """The type of this number, if its values can be read."""
    try:
        kind = GGMLQuantizationType(number)
    except ValueError as error:
        raise ArtifactError(
            f"{path}: tensor {name} has the unknown quantization type {number}. "
            "Convert the model to Q8_0 or F16."
        ) from error
    if kind in PLAIN_DTYPES:
        return kind
    try:  # one block of zeros shows whether the package can read the type
        gguf.quants.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except (NotImplementedError, KeyError) as error:
        raise ArtifactError(
            f"{path}: tensor {name} has the quantization {kind.name}, which cannot be read. "
            "Convert the model to Q8_0 or F16."
        ) from error
    return kind


def _size(kind: GGMLQuantizationType, shape: tuple[int, ...]) -> int:
    block, size_bytes = gguf.GGML_QUANT_SIZES[kind]
    return prod(shape) // block * size_bytes


def _check_extents(path: Path, size: int, tensors: Mapping[str, StoredTensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.start + tensor.size_bytes > size:
            raise ArtifactError(
                f"{path} is cut short: tensor {name} ends at byte "
                f"{tensor.start + tensor.size_bytes:,}, the file at {size:,}. Copy the file again."
            )


def _check_kind(path: Path, metadata: Mapping[str, Any]) -> None:
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise ArtifactError(f"{path} holds no model but general.type {kind}.")
    if metadata.get("split.count", 1) > 1:
        raise ArtifactError(
            f"{path} is one of {metadata['split.count']} parts. Join them with: llama-gguf-split "
            "--merge FIRST JOINED"
        )
