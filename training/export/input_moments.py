"""Second moments of what enters each weight matrix, over real text.

They say which errors of a quantized matrix the model would notice. The fp32 graph is run with the
inputs of its products as further outputs, so every family is measured in the same way.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from training.export.gptq import Moments
from training.export.session import ReferenceRunner, open_session

_PRODUCTS = {"MatMul": 0, "Gemm": 1}  # operator: the axis of its matrix that meets the input
_MAX_WINDOWS = 16
_MAX_TOKENS = 256  # of one run: it holds every input of a group
_GROUP_BYTES = 512 << 20  # of the moments that are held at once; each group runs the windows again


class Product(NamedTuple):
    """The input of a product, and its width."""

    input: str
    width: int


class InputMoments:
    """Sums of x xᵀ over the tokens of some windows, for the inputs x of every weight matrix.

    The matrices are asked for in the order of the graph; what has been left behind is forgotten.
    """

    def __init__(self, graph: Path, windows: np.ndarray) -> None:
        """Read which products a graph has.

        Args:
            graph: fp32, of the model that is to be quantized.
            windows: token ids [N, context + 1]; at most 16, evenly spread over them, are used.
        """
        self._graph = graph
        chosen = np.linspace(0, len(windows) - 1, min(_MAX_WINDOWS, len(windows))).astype(int)
        self._windows = windows[chosen, :-1]
        self._model = onnx.load_model(str(graph), load_external_data=False)
        self._products = weighted_products(self._model.graph)
        self._held: dict[str, Moments] = {}

    def of(self, name: str) -> Moments | None:
        """What enters matrix `name`; None if no product uses it."""
        if name not in self._products:
            return None
        if name not in self._held:
            self._held = self._measure(self._group(name))
        return self._held[name]

    def _group(self, first: str) -> list[str]:
        """This matrix and those after it whose moments may be held together."""
        names = list(self._products)
        names = names[names.index(first) :]
        sizes = np.cumsum([4 * self._products[name].width ** 2 for name in names])
        return names[: max(1, int((sizes <= _GROUP_BYTES).sum()))]

    def _measure(self, names: list[str]) -> dict[str, Moments]:
        tensors = {self._products[name].input for name in names}
        sums: dict[str, np.ndarray] = {}
        for values in product_inputs(self._graph, self._model, tensors, self._windows):
            for tensor, x in values.items():  # (T, K)
                sums[tensor] = sums.get(tensor, np.float32(0)) + x.T @ x
        tokens = self._windows.size
        return {name: Moments(sums[self._products[name].input], tokens) for name in names}


def product_inputs(
    graph: Path, model: onnx.ModelProto, tensors: set[str], windows: np.ndarray
) -> Iterator[dict[str, np.ndarray]]:
    """Run windows and give what enters products, (T, K) each, for some tokens at once.

    Args:
        graph: fp32; its file of large tensors lies beside it.
        model: the same graph, read.
        tensors: names of the inputs that are wanted.
        windows: token ids [N, context].
    """
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    for tensor in sorted(tensors - {output.name for output in opened.graph.output}):
        info = helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None)
        opened.graph.output.append(info)
    path = graph.with_name("inputs.onnx")
    path.write_bytes(opened.SerializeToString())
    outputs = sorted(tensors)
    runner = ReferenceRunner(open_session(path), slots=1, capacity=windows.shape[1])
    for window in windows:
        runner.lengths[:] = 0
        for start in range(0, windows.shape[1], _MAX_TOKENS):
            found = runner.run({0: window[start : start + _MAX_TOKENS].tolist()}, outputs)
            yield dict(zip(outputs, found, strict=True))
    path.unlink()


def weighted_products(graph: onnx.GraphProto) -> dict[str, Product]:
    """The products of a graph by the names of their matrices, in its order."""
    shapes = {tensor.name: tensor.dims for tensor in graph.initializer if len(tensor.dims) == 2}
    return {
        node.input[1]: Product(node.input[0], shapes[node.input[1]][_PRODUCTS[node.op_type]])
        for node in graph.node
        if node.op_type in _PRODUCTS and node.input[1] in shapes
    }
