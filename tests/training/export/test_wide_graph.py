"""The graph with fp32 products multiplies the very numbers that the quantized one stores."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from everloop.errors import ArtifactError
from tests.tiny_model import make_tiny_checkpoint
from training.export.architecture import read_architecture
from training.export.graph import write_graph
from training.export.nodes import CONTRIB, IR_VERSION, OPSETS, Precision
from training.export.session import ReferenceRunner, open_session
from training.export.weights import Weights
from training.export.wide_graph import write_wide_graph


def write(folder: Path, family: str, precision: Precision, *, is_tied: bool = True) -> Path:
    checkpoint = make_tiny_checkpoint(folder / "checkpoint", family=family, is_tied=is_tied)
    architecture, weights = read_architecture(checkpoint), Weights.read(checkpoint)
    return write_graph(architecture, weights, folder, precision=precision, positions=160)


def unrounded(graph: Path) -> Path:
    """The quantized graph with ONNX Runtime's own product of fp32 activations."""
    model = onnx.load_model(str(graph), load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 1
    target = graph.with_name("unrounded.onnx")
    target.write_bytes(model.SerializeToString())
    return target


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize(
    ("family", "is_tied"), [("qwen3", True), ("llama", False), ("gpt2", True), ("lstm", True)]
)
def test_wide_graph_gives_the_logits_of_the_stored_weights(
    tmp_path: Path, tokens: list[int], family: str, precision: Precision, is_tied: bool
) -> None:
    graph = write(tmp_path, family, precision, is_tied=is_tied)
    wide = write_wide_graph(graph, tmp_path / "wide.onnx")
    assert wide is not None
    assert wide.stat().st_size < 2 * graph.stat().st_size

    expected, found, rounded = (
        ReferenceRunner(open_session(path), slots=1, capacity=60).step({0: tokens})[0]
        for path in (unrounded(graph), wide, graph)
    )

    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(found - rounded).max() > 1e-3  # which rounds its activations


def test_weights_are_unpacked_when_the_graph_is_loaded(tmp_path: Path) -> None:
    wide = write_wide_graph(write(tmp_path, "qwen3", "int8"), tmp_path / "wide.onnx")
    options = open_session(wide or tmp_path).get_session_options()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    ort.InferenceSession(str(wide), options, providers=["CPUExecutionProvider"])

    kinds = {node.op_type for node in onnx.load_model(tmp_path / "loaded.onnx").graph.node}
    assert "Gemm" in kinds
    assert not kinds & {"MatMulNBits", "DequantizeLinear", "ConstantOfShape"}


@pytest.mark.parametrize("has_zeros", [False, True])
@pytest.mark.parametrize(("bits", "block", "columns"), [(8, 32, 96), (4, 32, 96), (4, 16, 64)])
def test_every_form_of_the_product_is_taken(
    tmp_path: Path, bits: int, block: int, columns: int, has_zeros: bool
) -> None:
    random = np.random.default_rng(0)
    rows, groups = 6, columns // block
    per_byte = 8 // bits
    tensors = {
        "values": random.integers(0, 256, (rows, groups, block // per_byte), np.uint8),
        "scales": random.normal(size=(rows, groups)).astype(np.float32),
        "zeros": random.integers(0, 256, (rows, -(-groups // per_byte)), np.uint8),
        "bias": random.normal(size=rows).astype(np.float32),
    }
    inputs = ["x", "values", "scales", "zeros" if has_zeros else "", "", "bias"]
    graph = product(tmp_path, inputs, tensors, N=rows, K=columns, bits=bits, block_size=block)
    wide = write_wide_graph(graph, tmp_path / "wide.onnx")
    x = random.normal(size=(3, columns)).astype(np.float32)

    expected, found = (open_session(path).run(None, {"x": x})[0] for path in (graph, wide or graph))

    assert wide is not None
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_an_order_of_columns_is_refused(tmp_path: Path) -> None:
    tensors = {
        "values": np.zeros((2, 2, 32), np.uint8),
        "scales": np.ones((2, 2), np.float32),
        "order": np.zeros(64, np.int32),
    }
    inputs = ["x", "values", "scales", "", "order"]
    graph = product(tmp_path, inputs, tensors, N=2, K=64, bits=8, block_size=32)
    with pytest.raises(ArtifactError, match="in another order than their blocks"):
        write_wide_graph(graph, tmp_path / "wide.onnx")


def test_fp32_graph_has_no_wide_one(tiny_version: Path, tmp_path: Path) -> None:
    assert write_wide_graph(tiny_version / "model.onnx", tmp_path / "wide.onnx") is None
    assert not (tmp_path / "wide.onnx").exists()


def product(folder: Path, inputs: list[str], tensors: dict[str, np.ndarray], **sizes: int) -> Path:
    """A graph of one quantized product."""
    node = helper.make_node(
        "MatMulNBits", inputs, ["y"], name="y/MatMulNBits", domain=CONTRIB, **sizes
    )
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", sizes["K"]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["T", sizes["N"]])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items() if name in inputs],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    path = folder / "product.onnx"
    path.write_bytes(model.SerializeToString())
    return path
