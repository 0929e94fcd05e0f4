"""Modules of a checkpoint as nodes: linear layers and norms, found by the names of the family."""

from collections.abc import Mapping

import numpy as np

from training.export.architecture import Architecture
from training.export.equalization import NO_EQUALIZATION, Equalization
from training.export.nodes import Nodes
from training.export.weights import Weights


class Modules:
    """Takes weights out of a checkpoint and writes the nodes that use them.

    Attributes:
        architecture: of the checkpoint.
        nodes: the graph that grows.
        equalization: factors of channels, taken into the weights.
    """

    def __init__(
        self,
        architecture: Architecture,
        weights: Weights,
        nodes: Nodes,
        equalization: Equalization = NO_EQUALIZATION,
    ) -> None:
        self.architecture = architecture
        self.nodes = nodes
        self.equalization = equalization
        self._weights = weights

    def name(self, layer: int, module: str) -> str:
        """The full name of a layer's module."""
        return f"{self.architecture.family.layer.format(layer=layer)}.{module}"

    def take(self, name: str, *shape: int) -> np.ndarray:
        """Take one tensor out of the checkpoint."""
        return self._weights.take(name, shape)

    def has_bias(self, module: str) -> bool:
        """Whether the checkpoint holds a bias for a linear module."""
        return self._weights.has(f"{module}.bias")

    def linear(
        self,
        x: str,
        modules: Mapping[str, int],
        width: int,
        output: str,
        *,
        scale: float | np.ndarray = 1.0,
        rows: np.ndarray | None = None,
        columns: np.ndarray | None = None,
    ) -> str:
        """Apply linear modules of one input width as one product.

        Args:
            x: (T, width).
            modules: full names to numbers of outputs.
            width: inputs in the checkpoint.
            output: (T, outputs).
            scale: on the result, or on each of its columns.
            rows: of the checkpoint that the outputs are, -1 for zeros; None for all in order.
            columns: of the checkpoint that the inputs are, likewise.
        """
        matrix = np.concatenate([self._matrix(name, n, width) for name, n in modules.items()])
        bias = None
        if any(self.has_bias(name) for name in modules):
            bias = np.concatenate([self.take(f"{name}.bias", n) for name, n in modules.items()])
        if rows is not None:
            matrix, bias = _pick(matrix, rows), None if bias is None else _pick(bias, rows)
        if columns is not None:
            matrix = _pick(matrix.T, columns).T
        if np.any(np.not_equal(scale, 1)):
            factors = np.broadcast_to(np.float32(scale), len(matrix))
            matrix, bias = matrix * factors[:, None], None if bias is None else bias * factors
        name = f"{output}.weight"
        if name in self.equalization.outputs:
            divisors = self.equalization.outputs[name]
            matrix, bias = matrix / divisors[:, None], None if bias is None else bias / divisors
        if name in self.equalization.inputs:
            matrix = matrix * self.equalization.inputs[name]
        return self.nodes.linear(x, matrix, bias, name, output)

    def norm(self, x: str, module: str, output: str) -> str:
        """Normalize the last axis as the family does."""
        epsilon = self.architecture.norm_epsilon
        weight = self._norm_weight(module, self.architecture.n_embd)
        if self.architecture.family.norm == "layer":
            return self.nodes.layer_norm(x, weight, self._norm_bias(module), epsilon, output)
        return self.nodes.rms_norm(x, weight, epsilon, output)

    def add_and_norm(self, residual: str, update: str, module: str, output: str) -> tuple[str, str]:
        """Add an update to the residual; give the normalized sum and the sum."""
        epsilon = self.architecture.norm_epsilon
        weight = self._norm_weight(module, self.architecture.n_embd)
        if self.architecture.family.norm == "layer":
            bias = self._norm_bias(module)
            return self.nodes.add_and_layer_norm(residual, update, weight, bias, epsilon, output)
        return self.nodes.add_and_rms_norm(residual, update, weight, epsilon, output)

    def rms_norm(self, x: str, module: str, width: int, output: str, scale: float = 1.0) -> str:
        """Normalize the last axis, of any width, by its root mean square, and scale the result."""
        weight = self._norm_weight(module, width, scale)
        return self.nodes.rms_norm(x, weight, self.architecture.norm_epsilon, output)

    def _matrix(self, name: str, outputs: int, width: int) -> np.ndarray:
        if self.architecture.family.is_transposed:
            return self.take(f"{name}.weight", width, outputs).T
        return self.take(f"{name}.weight", outputs, width)

    def _norm_weight(self, module: str, width: int, scale: float = 1.0) -> str:
        weight = self.take(f"{module}.weight", width)
        if self.architecture.family.norm == "rms_plus_one":
            weight = weight + 1
        weight = weight * np.float32(scale) / self.equalization.outputs.get(module, np.float32(1))
        return self.nodes.constant(f"{module}.weight", weight)

    def _norm_bias(self, module: str) -> str:
        name = f"{module}.bias"
        bias = self.take(name, self.architecture.n_embd)
        bias = bias / self.equalization.outputs.get(module, np.float32(1))
        return self.nodes.constant(name, bias)


def _pick(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Rows of an array in another order, zeros where the place is -1."""
    picked = values[places]
    picked[places < 0] = 0
    return picked
