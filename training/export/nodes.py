"""Nodes and initializers of a growing ONNX graph, in fp32 or with int8 weight matrices.

Knows operators and nothing of models. Every method that adds nodes gives back the name of the
tensor that they make.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from training.export.external_data import ExternalData
from training.export.quantize import BITS, BLOCK_SIZE, quantize

CONTRIB = "com.microsoft"
OPSETS = {"": 21, CONTRIB: 1}
IR_VERSION = 10
_INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level
_EXTERNAL_BYTES = 1024  # smaller tensors stay inside model.onnx

Precision = Literal["fp32", "int8"]


class Nodes:
    """Collects one graph in topological order.

    Args:
        precision: of the matrices.
        data: takes the large constants; None keeps them in the graph.
    """

    def __init__(self, precision: Precision, data: ExternalData | None = None) -> None:
        self._precision = precision
        self._data = data
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}

    def model(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
    ) -> onnx.ModelProto:
        """Close the graph."""
        graph = helper.make_graph(
            self._nodes, name, inputs, outputs, list(self._initializers.values())
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="everloop"
        )

    def add(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node; give its first output."""
        name = f"{outputs[0]}/{kind}"
        self._nodes.append(
            helper.make_node(kind, inputs, outputs, name=name, domain=domain, **attributes)
        )
        return outputs[0]

    def constant(self, name: str, value: np.ndarray) -> str:
        """Keep an array as an initializer; of two with one name, the first counts."""
        if name not in self._initializers:
            if self._data is not None and value.nbytes >= _EXTERNAL_BYTES:
                self._initializers[name] = self._data.append(name, value)
            else:
                array = np.ascontiguousarray(value).reshape(value.shape)
                self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def gather(self, values: str, index: str, output: str) -> str:
        """Pick rows."""
        return self.add("Gather", [values, index], [output], axis=0)

    def reshape(self, values: str, shape: Sequence[int], output: str) -> str:
        """Reshape; -1 takes what is left."""
        target = self.constant(f"{output}.shape", np.array(shape, np.int64))
        return self.add("Reshape", [values, target], [output])

    def rms_norm(self, x: str, weight: str, epsilon: float, output: str) -> str:
        """Normalize the last axis by its root mean square."""
        return self.add(
            "SimplifiedLayerNormalization",
            [x, weight],
            [output],
            axis=-1,
            epsilon=epsilon,
            stash_type=1,
        )

    def add_and_rms_norm(
        self, residual: str, update: str, weight: str, epsilon: float, output: str
    ) -> tuple[str, str]:
        """Add an update to a residual; give the normalized sum and the sum."""
        total = f"{output}.residual"
        self.add(
            "SkipSimplifiedLayerNormalization",
            [residual, update, weight],
            [output, "", "", total],
            domain=CONTRIB,
            epsilon=epsilon,
        )
        return output, total

    def layer_norm(self, x: str, weight: str, bias: str, epsilon: float, output: str) -> str:
        """Normalize the last axis by its mean and variance."""
        return self.add("LayerNormalization", [x, weight, bias], [output], axis=-1, epsilon=epsilon)

    def add_and_layer_norm(
        self, residual: str, update: str, weight: str, bias: str, epsilon: float, output: str
    ) -> tuple[str, str]:
        """Add an update to a residual; give the normalized sum and the sum."""
        total = f"{output}.residual"
        self.add(
            "SkipLayerNormalization",
            [residual, update, weight, bias],
            [output, "", "", total],
            domain=CONTRIB,
            epsilon=epsilon,
        )
        return output, total

    def embedding(self, table: np.ndarray, name: str, ids: str, output: str) -> str:
        """Look up rows of a table [V, D]; `shared_product` can then use the same table."""
        if self._precision == "fp32":
            return self.gather(self.constant(name, table), ids, output)
        self._quantized(name, table)
        flat = self.reshape(f"{name}.values", [len(table), -1], f"{name}.rows")  # (V, D)
        return self.add(
            "GatherBlockQuantized",
            [flat, ids, f"{name}.scales"],
            [output],
            domain=CONTRIB,
            bits=BITS,
            block_size=BLOCK_SIZE,
            quantize_axis=1,
            gather_axis=0,
        )

    def shared_product(self, x: str, name: str, shape: tuple[int, int], output: str) -> str:
        """Multiply by the transposed table [V, D] of an embedding, without a second copy."""
        if self._precision == "fp32":
            return self.add("Gemm", [x, name], [output], transB=1)
        return self._quantized_product(x, name, shape, output)

    def linear(
        self, x: str, matrix: np.ndarray, bias: np.ndarray | None, name: str, output: str
    ) -> str:
        """Multiply by a transposed matrix [N, K] and add a bias [N]."""
        product = output if bias is None else f"{output}.product"
        if self._precision == "fp32":
            self.add("MatMul", [x, self.constant(name, matrix.T)], [product])
        else:
            self._quantized(name, matrix)
            self._quantized_product(x, name, matrix.shape, product)
        if bias is None:
            return output
        return self.add("Add", [product, self.constant(f"{name}.bias", bias)], [output])

    def _quantized(self, name: str, matrix: np.ndarray) -> None:
        blocks = quantize(matrix)
        self.constant(f"{name}.values", blocks.values)
        self.constant(f"{name}.scales", blocks.scales)

    def _quantized_product(self, x: str, name: str, shape: tuple[int, ...], output: str) -> str:
        return self.add(
            "MatMulNBits",
            [x, f"{name}.values", f"{name}.scales"],
            [output],
            domain=CONTRIB,
            N=shape[0],
            K=shape[1],
            bits=BITS,
            block_size=BLOCK_SIZE,
            accuracy_level=_INT8_ACTIVATIONS,
        )
