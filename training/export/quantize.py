"""Symmetric block quantization of weight matrices to 8 or 4 bits, in MatMulNBits' layout.

Each run of `block_size` values along the input axis shares one float32 scale; zero is stored as
128 or 8. The scale takes the sign that puts the value of largest magnitude on the end of the range
that has one step more, and is then searched for the least squared error of its block.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from everloop.machine import usable_cores

BLOCK_SIZE = 32  # where nothing else is asked for
# Of the scale that just reaches the largest value, by bits. With 4 bits smaller ones clip that
# value and err less on the rest; with 8 bits a larger one may lie nearer to the grid of the values.
_SCALE_FACTORS = {
    4: np.linspace(0.7, 1.05, 15, dtype=np.float32),
    8: np.linspace(1.0, 1.06, 8, dtype=np.float32),
}
# Searched at once: half a MiB stays in a core's cache, which takes half the time of 4 MiB.
_CHUNK_VALUES = 1 << 17


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """How a matrix is stored.

    Attributes:
        bits: 8 or 4 per value.
        block_size: values that share a scale.
    """

    bits: int
    block_size: int

    @property
    def zero(self) -> int:
        """The stored value that means zero."""
        return 1 << (self.bits - 1)


@dataclass(frozen=True, slots=True)
class QuantizedMatrix:
    """A matrix [N, K] as blocks.

    Attributes:
        format: bits and block size.
        values: uint8 [N, K / block, block * bits / 8]; of two 4-bit values the first is low.
        scales: float32 [N, K / block].
    """

    format: BlockFormat
    values: np.ndarray
    scales: np.ndarray

    def dequantize(self) -> np.ndarray:
        """Give back float32 [N, K]."""
        values = self.values
        if self.format.bits == 4:
            values = np.stack([values & 15, values >> 4], axis=-1)
        shape = (*self.scales.shape, self.format.block_size)
        centred = values.reshape(shape).astype(np.float32) - self.format.zero
        return (centred * self.scales[..., None]).reshape(len(self.values), -1)


def quantize(matrix: np.ndarray, block_format: BlockFormat) -> QuantizedMatrix:
    """Quantize a float32 matrix [N, K]; K must be divisible by the block size.

    Example: with 8 bits the block [1.0, -0.5, 0, …] has the scale -1/128 and the values
    [0, 192, 128, …].
    """
    rows, width = matrix.shape
    groups = width // block_format.block_size
    blocks = matrix.reshape(rows * groups, block_format.block_size)
    values = np.empty(blocks.shape, np.uint8)
    scales = np.empty(len(blocks), np.float32)

    def search(part: slice) -> None:
        scales[part], values[part] = _quantize_blocks(blocks[part], block_format)

    parts = list(_chunks(len(blocks), block_format.block_size))
    if len(parts) == 1:  # a thread costs more
        search(parts[0])
    else:
        with ThreadPoolExecutor(usable_cores()) as pool:  # numpy lets other threads compute
            list(pool.map(search, parts))
    return pack(values.reshape(matrix.shape), scales.reshape(rows, groups), block_format)


def pack(values: np.ndarray, scales: np.ndarray, block_format: BlockFormat) -> QuantizedMatrix:
    """Store values [N, K] of the format's range, zero included, with scales [N, K / block]."""
    if block_format.bits == 4:
        values = values[:, 0::2] | (values[:, 1::2] << 4)
    return QuantizedMatrix(block_format, values.reshape(*scales.shape, -1), scales)


def _chunks(blocks: int, block_size: int) -> Iterator[slice]:
    size = max(1, _CHUNK_VALUES // block_size)
    return (slice(start, start + size) for start in range(0, blocks, size))


def _quantize_blocks(
    blocks: np.ndarray, block_format: BlockFormat
) -> tuple[np.ndarray, np.ndarray]:
    """Scales [n] and stored values [n, block]."""
    zero = np.float32(block_format.zero)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[:, None], -1)[:, 0]
    scales = _search_scales(blocks, largest / -zero, block_format)
    return scales, (_nearest(blocks, scales, zero) + zero).astype(np.uint8)


def _search_scales(blocks: np.ndarray, scales: np.ndarray, block_format: BlockFormat) -> np.ndarray:
    """For each block the scale of least squared error among those near the first guess.

    Each guess is moved to the best scale of its own rounding, sum(x q) / sum(q q), before it is
    judged.
    """
    zero = np.float32(block_format.zero)
    best, best_error = scales, np.full(len(scales), np.inf, np.float32)
    for factor in _SCALE_FACTORS[block_format.bits]:
        rounded = _nearest(blocks, scales * factor, zero)
        power = np.einsum("nk,nk->n", rounded, rounded)
        product = np.einsum("nk,nk->n", blocks, rounded)
        fitted = np.divide(product, power, out=np.zeros_like(product), where=power != 0)
        difference = blocks - _nearest(blocks, fitted, zero) * fitted[:, None]
        error = np.einsum("nk,nk->n", difference, difference)
        better = error < best_error
        best = np.where(better, fitted, best)
        best_error = np.where(better, error, best_error)
    return best


def _nearest(blocks: np.ndarray, scales: np.ndarray, zero: np.float32) -> np.ndarray:
    """Steps from zero, rounded and within the range, as float32."""
    inverse = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales != 0)
    return np.clip(np.rint(blocks * inverse[:, None]), -zero, zero - 1)
