"""Nodes and initializers of a growing ONNX graph: matrices in fp32, or in blocks of int8 or int4.

Knows operators and nothing of models. Every method that adds nodes gives back the name of the
tensor that they make.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from training.export.external_data import ExternalData
from training.export.gptq import quantize_by_moments
from training.export.input_moments import InputMoments
from training.export.quantize import BLOCK_SIZE, BlockFormat, quantize

CONTRIB = "com.microsoft"
OPSETS = {"": 21, CONTRIB: 1}
IR_VERSION = 10
_INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level
_EXTERNAL_BYTES = 1024  # smaller tensors stay inside model.onnx

Precision = Literal["fp32", "int8", "int4"]
_BITS: dict[Precision, int] = {"int8": 8, "int4": 4}


class Nodes:
    """Collects one graph in topological order.

    Args:
        precision: of the matrices.
        data: takes the large constants; None keeps them in the graph.
        block_size: values of a quantized matrix that share a scale.
        moments: of the inputs of matrices, to quantize them by; None to judge by the values alone.
    """

    def __init__(
        self,
        precision: Precision,
        data: ExternalData | None = None,
        block_size: int = BLOCK_SIZE,
        moments: InputMoments | None = None,
    ) -> None:
        bits = _BITS.get(precision)
        self._format = None if bits is None else BlockFormat(bits, block_size)
        self._moments = moments
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
        if self._format is None:
            return self.gather(self.constant(name, table), ids, output)
        self._quantized(name, table, self._format)
        flat = self.reshape(f"{name}.values", [len(table), -1], f"{name}.rows")  # (V, D)
        return self.add(
            "GatherBlockQuantized",
            [flat, ids, f"{name}.scales"],
            [output],
            domain=CONTRIB,
            bits=self._format.bits,
            block_size=self._format.block_size,
            quantize_axis=1,
            gather_axis=0,
        )

    def shared_product(self, x: str, name: str, shape: tuple[int, int], output: str) -> str:
        """Multiply by the transposed table [V, D] of an embedding, without a second copy."""
        if self._format is None:
            return self.add("Gemm", [x, name], [output], transB=1)
        return self._quantized_product(x, name, shape, output, self._format)

    def linear(
        self, x: str, matrix: np.ndarray, bias: np.ndarray | None, name: str, output: str
    ) -> str:
        """Multiply by a transposed matrix [N, K] and add a bias [N]."""
        product = output if bias is None else f"{output}.product"
        if self._format is None:
            self.add("MatMul", [x, self.constant(name, matrix.T)], [product])
        else:
            self._quantized(name, matrix, self._format)
            self._quantized_product(x, name, matrix.shape, product, self._format)
        if bias is None:
            return output
        return self.add("Add", [product, self.constant(f"{name}.bias", bias)], [output])

    def _quantized(self, name: str, matrix: np.ndarray, block_format: BlockFormat) -> None:
        moments = None if self._moments is None else self._moments.of(name)
        if moments is None:
            blocks = quantize(matrix, block_format)
        else:
            blocks = quantize_by_moments(matrix, moments, block_format)
        self.constant(f"{name}.values", blocks.values)
        self.constant(f"{name}.scales", blocks.scales)

    def _quantized_product(
        self, x: str, name: str, shape: tuple[int, ...], output: str, block_format: BlockFormat
    ) -> str:
        return self.add(
            "MatMulNBits",
            [x, f"{name}.values", f"{name}.scales"],
            [output],
            domain=CONTRIB,
            N=shape[0],
            K=shape[1],
            bits=block_format.bits,
            block_size=block_format.block_size,
            accuracy_level=_INT8_ACTIVATIONS,
        )
