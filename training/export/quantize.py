"""Symmetric 8-bit block quantization of weight matrices, in MatMulNBits' layout.

Each run of 32 values along the input axis shares one float32 scale; zero is stored as 128. The
scale takes the sign that puts the value of largest magnitude on -128, so the whole range is used.
"""

from dataclasses import dataclass

import numpy as np

BLOCK_SIZE = 32
BITS = 8
_ZERO = 1 << (BITS - 1)


@dataclass(frozen=True, slots=True)
class QuantizedMatrix:
    """A matrix [N, K] as blocks.

    Attributes:
        values: uint8 [N, K / 32, 32].
        scales: float32 [N, K / 32].
    """

    values: np.ndarray
    scales: np.ndarray

    def dequantize(self) -> np.ndarray:
        """Give back float32 [N, K]."""
        centred = self.values.astype(np.float32) - _ZERO
        return (centred * self.scales[..., None]).reshape(len(self.values), -1)


def quantize(matrix: np.ndarray) -> QuantizedMatrix:
    """Quantize a float32 matrix [N, K]; K must be divisible by 32.

    Example: the block [1.0, -0.5, 0, …] has the scale -1/128 and the values [0, 192, 128, …].
    """
    rows, width = matrix.shape
    blocks = matrix.reshape(rows, width // BLOCK_SIZE, BLOCK_SIZE)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)
    scales = largest / np.float32(-_ZERO)
    inverse = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales != 0)
    values = np.clip(np.rint(blocks * inverse) + _ZERO, 0, 2 * _ZERO - 1).astype(np.uint8)
    return QuantizedMatrix(values, scales[..., 0].astype(np.float32))
