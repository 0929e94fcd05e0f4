"""Turn the float32 key and value cache of a finished graph into int8.

Only the graph's own file is rewritten: both graphs share the file of large tensors beside them. Of
a graph without GroupQueryAttention there is nothing to turn.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from training.export.cache_scales import CacheScales

_OPERATOR = "GroupQueryAttention"
# Places among the operator's inputs, and all of them.
_PAST_KEY, _PAST_VALUE, _KEY_SCALE, _VALUE_SCALE, _INPUTS = 3, 4, 12, 13, 17


def quantize_cache(graph: Path, target: Path, scales: CacheScales) -> Path:
    """Write a graph whose cache is int8, value = round(x / scale), in place and read in place.

    Args:
        graph: float32 cache; stays as it is.
        target: another file of the same folder.
        scales: of every state input of the graph.
    """
    model = onnx.load_model(str(graph), load_external_data=False)
    names: set[str] = set()
    for node in model.graph.node:
        if node.op_type == _OPERATOR:
            names |= {node.input[_PAST_KEY], node.input[_PAST_VALUE], *node.output[1:3]}
            _quantize_node(model.graph, node, scales)
    for value in (*model.graph.input, *model.graph.output):
        if value.name in names:
            value.type.tensor_type.elem_type = TensorProto.INT8
    target.write_bytes(model.SerializeToString(deterministic=True))
    return target


def _quantize_node(graph: onnx.GraphProto, node: onnx.NodeProto, scales: CacheScales) -> None:
    inputs = [*node.input, *[""] * (_INPUTS - len(node.input))]
    for past, place in ((_PAST_KEY, _KEY_SCALE), (_PAST_VALUE, _VALUE_SCALE)):
        name = inputs[past]
        inputs[place] = f"{name}.scale"
        tensor = numpy_helper.from_array(np.ascontiguousarray(scales[name]), inputs[place])
        graph.initializer.append(tensor)
    del node.input[:]
    node.input.extend(inputs)
    for name, value in (
        ("k_quant_type", "PER_CHANNEL"),
        ("v_quant_type", "PER_CHANNEL"),
        ("kv_cache_bit_width", 8),
    ):
        node.attribute.append(helper.make_attribute(name, value))
