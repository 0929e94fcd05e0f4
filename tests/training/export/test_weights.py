import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from everloop.errors import ArtifactError
from training.export.weights import INDEX_FILE, SINGLE_FILE, Weights, weight_files


def test_read_widens_16_bit_weights(tmp_path: Path) -> None:
    values = torch.tensor([[1.0, -2.5]])
    tensors = {"half": values.half(), "brain": values.bfloat16(), "single": values}
    save_file(tensors, tmp_path / SINGLE_FILE)

    weights = Weights.read(tmp_path)

    for name in tensors:
        assert weights.take(name, (1, 2)).dtype == np.float32
        assert weights.take(name, (1, 2)).tolist() == [[1.0, -2.5]]


def test_read_joins_shards(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        save_file({name: torch.full((3,), float(number))}, tmp_path / f"{number}.safetensors")
    index = {"weight_map": {"a": "0.safetensors", "b": "1.safetensors"}}
    (tmp_path / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")

    weights = Weights.read(tmp_path)

    assert weights.take("b", (3,)).tolist() == [1.0, 1.0, 1.0]
    assert weights.parameters == 3
    assert weights.take("a", (3,)).tolist() == [0.0, 0.0, 0.0]
    assert weights.parameters == 6


def test_weight_files_refuses_pickled_weights_by_name(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")

    with pytest.raises(ArtifactError, match=r"pytorch_model\.bin holds pickled weights"):
        weight_files(tmp_path)


def test_weight_files_refuses_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"model\.safetensors is missing"):
        weight_files(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "not a readable index"),
        ('{"weight_map": {"a": "../a.safetensors"}}', r"expected .* got \.\./a\.safetensors"),
        ('{"weight_map": {"a": "a.bin"}}', r"expected safetensors files .* got a\.bin"),
        ('{"weight_map": {"a": "gone.safetensors"}}', r"gone\.safetensors is missing"),
    ],
)
def test_weight_files_refuses_a_wrong_index(tmp_path: Path, index: str, message: str) -> None:
    (tmp_path / INDEX_FILE).write_text(index, encoding="utf-8")

    with pytest.raises(ArtifactError, match=message):
        weight_files(tmp_path)


def test_read_refuses_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / SINGLE_FILE).write_bytes(b"\x00" * 100)

    with pytest.raises(ArtifactError, match="not a readable safetensors file"):
        Weights.read(tmp_path)


def write(folder: Path, **tensors: torch.Tensor) -> Weights:
    save_file(tensors, folder / SINGLE_FILE)
    return Weights.read(folder)


def test_take_refuses_a_missing_tensor_and_a_wrong_shape(tmp_path: Path) -> None:
    weights = write(tmp_path, a=torch.zeros(2, 3))

    with pytest.raises(ArtifactError, match="tensor b is missing"):
        weights.take("b", (1,))
    with pytest.raises(ArtifactError, match=r"a must have shape \(3, 2\), got \(2, 3\)"):
        weights.take("a", (3, 2))


def test_take_refuses_quantized_values(tmp_path: Path) -> None:
    weights = write(tmp_path, a=torch.zeros(2, dtype=torch.int8))

    with pytest.raises(
        ArtifactError, match=r"a holds torch\.int8 values; supported: torch\.float32"
    ):
        weights.take("a", (2,))


def test_take_finds_tensors_of_a_backbone_saved_alone(tmp_path: Path) -> None:
    weights = write(tmp_path, **{"wte.weight": torch.ones(2), "h.0.ln_1.bias": torch.zeros(3)})

    assert weights.take("transformer.wte.weight", (2,)).tolist() == [1.0, 1.0]
    assert weights.has("transformer.h.0.ln_1.bias")
    assert not weights.has("transformer.h.1.ln_1.bias")
    with pytest.raises(ArtifactError, match=r"1 tensors have no place .* is h\.0\.ln_1\.bias"):
        weights.refuse_leftovers()


def test_weight_files_refuses_an_adapter_alone(tmp_path: Path) -> None:
    save_file({"lora_A": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")

    with pytest.raises(ArtifactError, match="holds an adapter without its model"):
        weight_files(tmp_path)


def test_refuse_leftovers_names_the_first_unused_tensor(tmp_path: Path) -> None:
    names = ("used", "head", "x.rotary_emb.inv_freq", "h.0.attn.bias", "adapter.b", "adapter.a")
    weights = write(tmp_path, **{name: torch.zeros(1) for name in names})
    weights.take("used", (1,))

    with pytest.raises(ArtifactError, match=r"2 tensors have no place .* first is adapter\.a"):
        weights.refuse_leftovers("head")
