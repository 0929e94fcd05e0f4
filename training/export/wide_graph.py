"""Write the graph of a quantized version once more, with products in fp32.

The weights are the same numbers: unpacked when the graph is loaded, from the same file of tensors,
so that the graph's own file stays small. Activations are not rounded. That is what wide steps run
where a processor multiplies fp32 faster, and it shows how far the answers of processors lie apart
that round activations and that do not.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from everloop.errors import ArtifactError

_OPERATOR = "MatMulNBits"
_VALUES, _SCALES, _ZEROS, _GROUPS, _BIAS = 1, 2, 3, 4, 5  # places among its inputs
_TYPES = {8: TensorProto.UINT8, 4: TensorProto.UINT4}


def write_wide_graph(graph: Path, target: Path) -> Path | None:
    """Write the graph that multiplies in fp32; None for one whose products are fp32 already.

    Args:
        graph: stays as it is.
        target: another file of the same folder; both share the file of large tensors.

    Raises:
        ArtifactError: a product has an order of columns.
    """
    model = onnx.load_model(str(graph), load_external_data=False)
    if not any(node.op_type == _OPERATOR for node in model.graph.node):
        return None
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes += _product(node, tensors) if node.op_type == _OPERATOR else [node]
    used = {name for node in nodes for name in node.input}
    kept = [tensor for name, tensor in tensors.items() if name in used]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)
    target.write_bytes(model.SerializeToString(deterministic=True))
    return target


def _product(
    node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto]
) -> Iterator[onnx.NodeProto]:
    """One product as two nodes: weights [N, K] from their blocks, which are constant, and Gemm."""
    size = {value.name: value.i for value in node.attribute}
    inputs = [*node.input, *[""] * (_BIAS + 1 - len(node.input))]
    if inputs[_GROUPS]:
        raise ArtifactError(
            f"{node.name}: its columns are in another order than their blocks, which cannot be "
            "unpacked. Quantize without an order of columns."
        )
    shape = (size["N"], size["K"])
    groups = (size["N"], size["K"] // size["block_size"])
    kind = _TYPES[size["bits"]]
    values = _view(tensors, inputs[_VALUES], kind, shape)
    scales = _view(tensors, inputs[_SCALES], TensorProto.FLOAT, groups)
    zeros = f"{node.name}.zeros"
    if inputs[_ZEROS]:
        # Every row of 4-bit values starts with a byte of its own.
        whole = (groups[0], groups[1] + groups[1] % (8 // size["bits"]))
        stored = _view(tensors, inputs[_ZEROS], kind, whole)
        yield from _columns(stored, groups[1], zeros, kind, tensors)
    else:
        yield from _middle(zeros, groups, kind, size["bits"], tensors)
    matrix = f"{node.name}.matrix"
    yield helper.make_node(
        "DequantizeLinear",
        [values, scales, zeros],
        [matrix],
        name=f"{matrix}/DequantizeLinear",
        axis=1,
        block_size=size["block_size"],
    )
    operands = [inputs[0], matrix, *filter(None, [inputs[_BIAS]])]
    yield helper.make_node("Gemm", operands, node.output, name=f"{node.output[0]}/Gemm", transB=1)


def _view(
    tensors: dict[str, onnx.TensorProto], name: str, kind: int, shape: tuple[int, int]
) -> str:
    """Declare the bytes of a tensor once more, under another type and shape; they stay one."""
    view = f"{name}.matrix"
    if view not in tensors:
        tensor = onnx.TensorProto()
        tensor.CopyFrom(tensors[name])
        tensor.name, tensor.data_type = view, kind
        tensor.dims[:] = shape
        tensors[view] = tensor
    return view


def _columns(
    values: str, count: int, name: str, kind: int, tensors: dict[str, onnx.TensorProto]
) -> Iterator[onnx.NodeProto]:
    """Keep the first columns; of 4-bit values no operator can, so they are bytes on the way."""
    end, axis = f"{name}.end", f"{name}.axis"
    tensors[end] = numpy_helper.from_array(np.array([count], np.int64), end)
    tensors[axis] = numpy_helper.from_array(np.array([1], np.int64), axis)
    start = f"{name}.start"
    tensors[start] = numpy_helper.from_array(np.array([0], np.int64), start)
    wide, cut = f"{name}.bytes", f"{name}.cut"
    yield helper.make_node("Cast", [values], [wide], name=f"{wide}/Cast", to=TensorProto.UINT8)
    yield helper.make_node("Slice", [wide, start, end, axis], [cut], name=f"{cut}/Slice")
    yield helper.make_node("Cast", [cut], [name], name=f"{name}/Cast", to=kind)


def _middle(
    name: str,
    shape: tuple[int, int],
    kind: int,
    bits: int,
    tensors: dict[str, onnx.TensorProto],
) -> Iterator[onnx.NodeProto]:
    """Make the stored value that means zero, as often as there are blocks."""
    sizes, filled = f"{name}.shape", f"{name}.bytes"
    tensors[sizes] = numpy_helper.from_array(np.array(shape, np.int64), sizes)
    value = numpy_helper.from_array(np.array([1 << (bits - 1)], np.uint8))
    yield helper.make_node(
        "ConstantOfShape", [sizes], [filled], name=f"{filled}/ConstantOfShape", value=value
    )
    yield helper.make_node("Cast", [filled], [name], name=f"{name}/Cast", to=kind)
