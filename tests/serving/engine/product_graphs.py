"""Writes the graphs whose speed is measured: python -m tests.serving.engine.product_graphs

Their weights are constants that ONNX Runtime makes while it opens the session, so that it packs
them as it packs a model's, and the files take some hundred bytes. The serving process has no onnx.
"""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

import serving.engine

FOLDER = Path(serving.engine.__file__).parent
INNER, COLUMNS, BLOCK = 1024, 2048, 32


def product_graph(precision: str) -> bytes:
    """One product of `a` [rows, INNER] with a constant [INNER, COLUMNS]."""
    if precision == "fp32":
        nodes = [
            *_constant("weights", (INNER, COLUMNS), TensorProto.FLOAT, 0.01),
            helper.make_node("MatMul", ["a", "weights"], ["c"]),
        ]
    else:
        blocks = INNER // BLOCK
        nodes = [
            *_constant("weights", (COLUMNS, blocks, BLOCK), TensorProto.UINT8, 130),
            *_constant("scales", (COLUMNS, blocks), TensorProto.FLOAT, 0.01),
            helper.make_node(
                "MatMulNBits",
                ["a", "weights", "scales"],
                ["c"],
                domain="com.microsoft",
                K=INNER,
                N=COLUMNS,
                bits=8,
                block_size=BLOCK,
                accuracy_level=4,
            ),
        ]
    graph = helper.make_graph(
        nodes,
        f"product_{precision}",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, ["rows", INNER])],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, ["rows", COLUMNS])],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _constant(name: str, shape: tuple[int, ...], kind: int, value: float) -> list[onnx.NodeProto]:
    """Two nodes that give a tensor of one value; ONNX Runtime folds them into a constant."""
    sizes = helper.make_tensor(f"{name}_shape", TensorProto.INT64, [len(shape)], shape)
    fill = helper.make_tensor(f"{name}_value", kind, [1], [value])
    return [
        helper.make_node("Constant", [], [f"{name}_shape"], value=sizes),
        helper.make_node("ConstantOfShape", [f"{name}_shape"], [name], value=fill),
    ]


if __name__ == "__main__":
    for precision in ("fp32", "int8"):
        (FOLDER / f"product_{precision}.onnx").write_bytes(product_graph(precision))
