from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.tiny_model import make_tiny_checkpoint
from training.export.architecture import read_architecture
from training.export.graph import write_graph
from training.export.input_moments import InputMoments
from training.export.weights import Weights


def write(checkpoint: Path, folder: Path) -> Path:
    architecture, weights = read_architecture(checkpoint), Weights.read(checkpoint)
    return write_graph(architecture, weights, folder, precision="fp32", positions=160)


def torch_moments(checkpoint: Path, windows: np.ndarray, modules: list[str]) -> list[np.ndarray]:
    """The same sums, from hooks on the modules of the torch model."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="eager").eval()
    sums: dict[str, torch.Tensor] = {}

    def hook(name: str) -> object:
        def add(module: object, inputs: tuple[torch.Tensor], output: object) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1])
            sums[name] = sums.get(name, torch.zeros(())) + x.T @ x

        return add

    for name in modules:
        model.get_submodule(name).register_forward_hook(hook(name))
    with torch.no_grad():
        model(torch.tensor(windows[:, :-1]))
    return [sums[name].numpy() for name in modules]


def test_of_gives_the_sums_of_what_enters_each_matrix(
    tiny_checkpoint: Path, windows: np.ndarray, tmp_path: Path
) -> None:
    moments = InputMoments(write(tiny_checkpoint, tmp_path), windows)
    modules = {
        "layers.0.attention.qkv.weight": "model.layers.0.self_attn.v_proj",
        "layers.1.attention.output.weight": "model.layers.1.self_attn.o_proj",
        "layers.1.mlp.weight": "model.layers.1.mlp.down_proj",
        "model.embed_tokens": "lm_head",
    }

    expected = torch_moments(tiny_checkpoint, windows, list(modules.values()))

    for name, wanted in zip(modules, expected, strict=True):
        found = moments.of(name)
        assert found is not None
        np.testing.assert_allclose(found.sums, wanted, atol=1e-3 * np.abs(wanted).max())
        assert found.tokens == 240
    assert moments.of("model.layers.0.input_layernorm.weight") is None
    assert [path.name for path in tmp_path.glob("*.onnx")] == ["model.onnx"]


def test_of_holds_no_more_than_a_group(
    tiny_checkpoint: Path,
    windows: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = write(tiny_checkpoint, tmp_path)
    names = [
        node.input[1]
        for node in onnx.load(str(graph), load_external_data=False).graph.node
        if node.op_type in ("MatMul", "Gemm")
    ]
    whole = InputMoments(graph, windows)
    expected = [whole.of(name) for name in names]
    monkeypatch.setattr("training.export.input_moments._GROUP_BYTES", 4 * 96 * 96)
    monkeypatch.setattr("training.export.input_moments._MAX_TOKENS", 7)
    parts = InputMoments(graph, windows)

    for name, wanted in zip(names, expected, strict=True):
        found = parts.of(name)
        assert found is not None and wanted is not None
        np.testing.assert_allclose(found.sums, wanted.sums, rtol=1e-3, atol=1e-3)
        assert len(parts._held) <= 2


def test_of_a_recurrent_family_knows_the_head(windows: np.ndarray, tmp_path: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path, family="lstm")
    graph = write(checkpoint, tmp_path)
    table = onnx.load(str(graph), load_external_data=False)
    (head,) = [node.input[1] for node in table.graph.node if node.op_type in ("MatMul", "Gemm")]

    moments = InputMoments(graph, windows).of(head)

    assert moments is not None
    assert moments.sums.shape == (64, 64)
    assert np.linalg.eigvalsh(moments.sums.astype(np.float64)).min() > -1e-2
