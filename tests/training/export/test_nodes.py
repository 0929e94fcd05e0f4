from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from training.export.nodes import Nodes, Precision
from training.export.quantize import BlockFormat, quantize

TOLERANCES = [("fp32", 1e-4), ("int8", 0.3), ("int4", 6.0)]  # of sums of 64 products


def run(nodes: Nodes, inputs: dict[str, np.ndarray], output: str) -> np.ndarray:
    types = {np.dtype("int64"): TensorProto.INT64, np.dtype("float32"): TensorProto.FLOAT}
    declared = [
        helper.make_tensor_value_info(name, types[value.dtype], value.shape)
        for name, value in inputs.items()
    ]
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    model = nodes.model("test", declared, [result])
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([output], inputs)[0]


@pytest.fixture
def matrix() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(48, 64)).astype(np.float32)


@pytest.mark.parametrize(("precision", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("has_bias", [False, True])
def test_linear_multiplies_and_adds(
    matrix: np.ndarray, precision: Precision, tolerance: float, has_bias: bool
) -> None:
    bias = np.arange(48, dtype=np.float32) if has_bias else None
    x = np.random.default_rng(1).normal(size=(5, 64)).astype(np.float32)
    nodes = Nodes(precision)
    nodes.linear("x", matrix, bias, "w", "y")

    expected = x @ matrix.T + (0 if bias is None else bias)

    np.testing.assert_allclose(run(nodes, {"x": x}, "y"), expected, atol=tolerance)


@pytest.mark.parametrize("block_size", [32, 64])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantized_products_are_those_of_the_dequantized_matrix(
    matrix: np.ndarray, precision: Precision, block_size: int
) -> None:
    # Activations are rounded to 8 bits in blocks too: these are on that grid already.
    x = np.random.default_rng(1).integers(-127, 128, (5, 64)).astype(np.float32) / 16
    x[:, ::32] = 127 / 16
    nodes = Nodes(precision, block_size=block_size)
    nodes.embedding(matrix, "table", "ids", "rows")
    nodes.shared_product("x", "table", (48, 64), "head")
    nodes.linear("x", matrix, None, "w", "y")
    bits = {"int8": 8, "int4": 4}[precision]
    stored = quantize(matrix, BlockFormat(bits, block_size)).dequantize()

    inputs = {"x": x, "ids": np.array([47, 0, 3])}

    np.testing.assert_allclose(run(nodes, inputs, "rows"), stored[[47, 0, 3]], atol=1e-6)
    np.testing.assert_allclose(run(nodes, inputs, "head"), x @ stored.T, atol=1e-3)
    np.testing.assert_allclose(run(nodes, inputs, "y"), x @ stored.T, atol=1e-3)


@pytest.mark.parametrize(("precision", "tolerance"), TOLERANCES)
def test_embedding_and_head_share_one_table(
    matrix: np.ndarray, precision: Precision, tolerance: float
) -> None:
    nodes = Nodes(precision)
    hidden = nodes.embedding(matrix, "table", "ids", "hidden")
    nodes.shared_product(hidden, "table", (48, 64), "logits")

    logits = run(nodes, {"ids": np.array([3, 47])}, "logits")

    np.testing.assert_allclose(logits, matrix[[3, 47]] @ matrix.T, atol=tolerance)
    names = [tensor.name for tensor in nodes.model("test", [], []).graph.initializer]
    blocks = ["table.values", "table.scales", "table.rows.shape"]
    assert names == (["table"] if precision == "fp32" else blocks)


def test_add_and_rms_norm_gives_both_sums() -> None:
    nodes = Nodes("fp32")
    nodes.constant("weight", np.array([1.0, 2.0], np.float32))
    _, total = nodes.add_and_rms_norm("a", "b", "weight", 0.0, "normed")
    inputs = {"a": np.array([[1.0, 4.0]], np.float32), "b": np.array([[2.0, 0.0]], np.float32)}

    assert run(nodes, inputs, total).tolist() == [[3.0, 4.0]]
    # Root mean square of 3 and 4: sqrt(12.5) = 3.5355.
    np.testing.assert_allclose(run(nodes, inputs, "normed"), [[0.84853, 2.26274]], atol=1e-5)


def test_model_declares_its_operator_sets(tmp_path: Path) -> None:
    model = Nodes("fp32").model("test", [], [])

    assert model.ir_version == 10
    assert {opset.domain: opset.version for opset in model.opset_import} == {
        "": 21,
        "com.microsoft": 1,
    }
    assert isinstance(model, onnx.ModelProto)
