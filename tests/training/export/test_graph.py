from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from safetensors.torch import load_file, save_file

from everloop.errors import ArtifactError
from tests.tiny_model import make_tiny_checkpoint
from training.export.architecture import read_architecture
from training.export.graph import write_graph
from training.export.nodes import Precision
from training.export.weights import Weights

Build = Callable[..., ort.InferenceSession]


def write(checkpoint: Path, folder: Path, precision: Precision = "fp32") -> Path:
    architecture, weights = read_architecture(checkpoint), Weights.read(checkpoint)
    return write_graph(architecture, weights, folder, precision=precision, positions=160)


def test_write_graph_follows_the_contract(tiny_session: ort.InferenceSession) -> None:
    inputs = {tensor.name: (tensor.type, tensor.shape) for tensor in tiny_session.get_inputs()}
    outputs = {tensor.name: tensor.shape for tensor in tiny_session.get_outputs()}

    cache = ("tensor(float)", ["B", 2, "C", 32])
    assert inputs == {
        "input_ids": ("tensor(int64)", ["T"]),
        "pad_index": ("tensor(int64)", ["B", "S"]),
        "unpad_index": ("tensor(int64)", ["T"]),
        "query_seqlens": ("tensor(int32)", ["B"]),
        "seqlens_k": ("tensor(int32)", ["B"]),
        "total_len": ("tensor(int32)", [1]),
        "logits_index": ("tensor(int64)", ["R"]),
        "past_key_values.0.key": cache,
        "past_key_values.0.value": cache,
        "past_key_values.1.key": cache,
        "past_key_values.1.value": cache,
    }
    assert outputs["logits"] == ["R", 259]
    assert list(outputs)[1:] == [name.replace("past_key_values", "present") for name in inputs][7:]


def test_write_graph_is_reproducible(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        write(tiny_checkpoint, folder, "int8")
    write(tiny_checkpoint, folders[1], "int8")  # a second time over the first

    for name in ("model.onnx", "model.onnx.data"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_write_graph_keeps_the_weights_outside(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = write(tiny_checkpoint, tmp_path)
    graph = onnx.load(str(path), load_external_data=False).graph

    locations = {
        entry.value
        for tensor in graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert locations == {"model.onnx.data"}
    assert path.stat().st_size < 20_000


def test_logits_index_picks_positions(tiny_session: ort.InferenceSession) -> None:
    names = [tensor.name for tensor in tiny_session.get_inputs()][7:]
    inputs = {
        "input_ids": np.array([5, 6, 7]),
        "pad_index": np.array([[0, 1, 2]]),
        "unpad_index": np.array([0, 1, 2]),
        "query_seqlens": np.array([3], np.int32),
        "seqlens_k": np.array([2], np.int32),
        "total_len": np.array([3], np.int32),
        **{name: np.zeros((1, 2, 8, 32), np.float32) for name in names},
    }

    every = tiny_session.run(["logits"], inputs | {"logits_index": np.array([0, 1, 2])})[0]
    chosen = tiny_session.run(["logits"], inputs | {"logits_index": np.array([2, 0])})[0]

    np.testing.assert_allclose(chosen, every[[2, 0]], atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 80}, "hidden_size divisible by 32, got 80"),
        ({"intermediate_size": 100}, "intermediate_size divisible by 32, got 100"),
        (
            {"head_dim": 16, "num_attention_heads": 3, "num_key_value_heads": 3},
            r"num_attention_heads \* head_dim divisible by 32, got 48",
        ),
    ],
)
def test_write_graph_refuses_widths_that_int8_cannot_cut(
    tmp_path: Path, settings: dict[str, int], message: str
) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path, **settings)

    with pytest.raises(ArtifactError, match=message):
        write(checkpoint, tmp_path, "int8")
    assert write(checkpoint, tmp_path, "fp32").is_file()


def test_write_graph_refuses_a_tensor_without_a_place(tmp_path: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path)
    tensors = load_file(checkpoint / "model.safetensors")
    extra = tensors["model.norm.weight"].clone()
    save_file(tensors | {"model.adapter": extra}, checkpoint / "model.safetensors")

    with pytest.raises(ArtifactError, match=r"the first is model\.adapter"):
        write(checkpoint, tmp_path)


def test_write_graph_refuses_an_untied_checkpoint_without_head(tmp_path: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path, is_tied=False)
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, checkpoint / "model.safetensors")

    with pytest.raises(ArtifactError, match=r"tensor lm_head\.weight is missing"):
        write(checkpoint, tmp_path)
