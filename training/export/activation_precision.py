"""Take the rounding of activations out of a quantized graph.

Products with quantized weights round their activations to int8 where the processor has instructions
for it, and may not where it has none. The graph without that rounding shows how far the answers of
such processors lie apart.
"""

from pathlib import Path

import onnx

_OPERATOR = "MatMulNBits"
_ATTRIBUTE = "accuracy_level"
_FP32 = 1


def keep_activations(graph: Path, target: Path) -> Path | None:
    """Write the same graph with fp32 activations; None when the graph rounds none.

    Args:
        graph: stays as it is.
        target: another file of the same folder; both share the file of large tensors.
    """
    model = onnx.load_model(str(graph), load_external_data=False)
    levels = [
        attribute
        for node in model.graph.node
        if node.op_type == _OPERATOR
        for attribute in node.attribute
        if attribute.name == _ATTRIBUTE
    ]
    if not levels:
        return None
    for level in levels:
        level.i = _FP32
    target.write_bytes(model.SerializeToString(deterministic=True))
    return target
