from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from everloop.errors import ArtifactError
from tests.tiny_model import make_tiny_checkpoint
from training.export.folder import write_folder
from training.pretrained import load_config, load_model, quiet_transformers


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("f32", torch.float32), ("f16", torch.float16)])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_transformers_loads_the_same_model(
    tmp_path: Path, target: Path, family: str, dtype: str, torch_dtype: torch.dtype
) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "checkpoint", family=family)

    write_folder(checkpoint, target, dtype=dtype)

    assert load_config(target).dtype == torch_dtype
    wanted, found = (load_model(each).state_dict() for each in (checkpoint, target))
    assert all(torch.equal(found[name], wanted[name].to(torch_dtype).float()) for name in wanted)
    tokenizers = [AutoTokenizer.from_pretrained(each) for each in (checkpoint, target)]
    assert tokenizers[0].chat_template == tokenizers[1].chat_template
    assert tokenizers[0]("def f(x):") == tokenizers[1]("def f(x):")


def test_shards_of_16_bits_become_one_file(tmp_path: Path, target: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "checkpoint", family="llama")
    wanted = load_model(checkpoint).to(torch.bfloat16)
    (checkpoint / "model.safetensors").unlink()
    with quiet_transformers():
        wanted.save_pretrained(checkpoint, max_shard_size="100KB")
    assert len(list(checkpoint.glob("*.safetensors"))) > 1

    write_folder(checkpoint, target, dtype="f32")

    found = load_file(target / "model.safetensors")
    assert all(torch.equal(found[name], wanted.state_dict()[name].float()) for name in found)


def test_architecture_of_everloops_own_is_refused_by_name(tmp_path: Path, target: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "checkpoint", family="gru")

    with pytest.raises(ArtifactError, match="RnnForCausalLM is an architecture of Everloop's own"):
        write_folder(checkpoint, target, dtype="f32")


def test_values_beyond_16_bits_are_refused(tmp_path: Path, target: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "checkpoint", family="llama")
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["model.norm.weight"][0] = 1e5
    save_file(tensors, checkpoint / "model.safetensors")

    with pytest.raises(ArtifactError, match=r"model\.norm\.weight holds values that .*float16"):
        write_folder(checkpoint, target, dtype="f16")
