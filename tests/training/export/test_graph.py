from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import load_file, save_file

from everloop.errors import ArtifactError
from tests.tiny_model import FAMILIES, make_tiny_checkpoint
from training.export.architecture import read_architecture
from training.export.graph import write_graph
from training.export.nodes import Precision
from training.export.session import open_session
from training.export.weights import Weights
from training.pretrained import load_model

Build = Callable[..., ort.InferenceSession]


def write(
    checkpoint: Path, folder: Path, precision: Precision = "fp32", *, embeddings: bool = False
) -> Path:
    architecture, weights = read_architecture(checkpoint), Weights.read(checkpoint)
    return write_graph(
        architecture, weights, folder, precision=precision, positions=160, embeddings=embeddings
    )


def prompt_inputs(session: ort.InferenceSession, tokens: list[int]) -> dict[str, np.ndarray]:
    """One row of new tokens over an empty state."""
    places = np.arange(len(tokens))
    inputs = {
        "input_ids": np.array(tokens),
        "pad_index": places[None],
        "unpad_index": places,
        "query_seqlens": np.array([len(tokens)], np.int32),
        "seqlens_k": np.array([len(tokens) - 1], np.int32),
        "total_len": np.array([len(tokens)], np.int32),
        "logits_index": places,
    }
    for tensor in session.get_inputs():
        if tensor.name.startswith("past"):
            shape = [{"B": 1, "C": 32}.get(axis, axis) for axis in tensor.shape]
            inputs[tensor.name] = np.zeros(shape, np.float32)
    return inputs


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
    inputs = prompt_inputs(tiny_session, [5, 6, 7])

    every = tiny_session.run(["logits"], inputs)[0]
    chosen = tiny_session.run(["logits"], inputs | {"logits_index": np.array([2, 0])})[0]

    np.testing.assert_allclose(chosen, every[[2, 0]], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_those_that_the_head_sees(tmp_path: Path, family: str) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path, family=family)
    tokens = [5, 80, 33, 200, 7]

    session = open_session(write(checkpoint, tmp_path, embeddings=True))
    inputs = prompt_inputs(session, tokens) | {"logits_index": np.array([4, 1])}
    found = session.run(["hidden_states"], inputs)[0]

    backbone = load_model(checkpoint).base_model
    expected = backbone(torch.tensor([tokens])).last_hidden_state[0].detach().numpy()
    np.testing.assert_allclose(found, expected[[4, 1]], atol=5e-5)


def test_hidden_states_cost_no_node(tiny_checkpoint: Path, tmp_path: Path) -> None:
    graphs = []
    for embeddings in (False, True):
        path = write(tiny_checkpoint, tmp_path, embeddings=embeddings)
        graphs.append(onnx.load(str(path), load_external_data=False).graph)

    assert list(graphs[0].node) == list(graphs[1].node)
    assert len(graphs[1].output) == len(graphs[0].output) + 1


@pytest.mark.parametrize(("window", "expected"), [(159, [159, 159]), (160, [-1, -1])])
def test_window_wider_than_every_row_is_none(
    tmp_path: Path, window: int, expected: list[int]
) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path, family="mistral", sliding_window=window)

    graph = onnx.load(str(write(checkpoint, tmp_path)), load_external_data=False).graph

    found = [
        attribute.i
        for node in graph.node
        for attribute in node.attribute
        if attribute.name == "local_window_size"
    ]
    assert found == expected


@pytest.mark.parametrize(("cell", "parts"), [("lstm", "hc"), ("gru", "h")])
def test_recurrent_state_is_of_a_fixed_size(
    tmp_path: Path, build: Build, cell: str, parts: str
) -> None:
    session = build(make_tiny_checkpoint(tmp_path, family=cell))

    names = [f"{layer}.{part}" for layer in range(2) for part in parts]
    inputs = {tensor.name: tensor.shape for tensor in session.get_inputs()[7:]}
    outputs = {tensor.name: tensor.shape for tensor in session.get_outputs()[1:]}
    assert inputs == {f"past.{name}": ["B", 64] for name in names}
    assert outputs == {f"present.{name}": ["B", 64] for name in names}


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_recurrent_row_without_tokens_keeps_its_state(
    tmp_path: Path, build: Build, cell: str
) -> None:
    session = build(make_tiny_checkpoint(tmp_path, family=cell))
    alone = prompt_inputs(session, [9, 8])
    states = [name for name in alone if name.startswith("past")]
    outputs = [f"present.{name.partition('.')[2]}" for name in states]
    both = alone | {
        "pad_index": np.array([[0, 0], [0, 1]]),
        "unpad_index": np.array([2, 3]),
        "query_seqlens": np.array([0, 2], np.int32),
        "seqlens_k": np.array([40, 1], np.int32),
        **{name: np.array([[0.3] * 64, [0.0] * 64], np.float32) for name in states},
    }

    expected = session.run(outputs, alone)
    found = session.run(outputs, both)

    for kept, one in zip(found, expected, strict=True):
        assert (kept[0] == np.float32(0.3)).all()
        np.testing.assert_allclose(kept[1], one[0], atol=1e-6)


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


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "olmo2"])
def test_write_graph_leaves_no_scores_to_scale(tmp_path: Path, family: str) -> None:
    graph = write(make_tiny_checkpoint(tmp_path / "checkpoint", family=family), tmp_path)
    nodes = onnx.load_model(str(graph), load_external_data=False).graph.node
    scales = [
        attribute.f
        for node in nodes
        if node.op_type == "GroupQueryAttention"
        for attribute in node.attribute
        if attribute.name == "scale"
    ]
    assert set(scales) == {1.0}
