import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from everloop.chat import ChatTemplate
from everloop.errors import ArtifactError
from tests.tiny_model import LLAMA3_ROPE, make_tiny_checkpoint, make_tiny_tokenizer
from tests.training.gguf.conftest import TEXT, change_json
from training.export.special_tokens import read_special_tokens
from training.gguf.file import GgufFile
from training.gguf.read import convert_gguf
from training.gguf.write import write_gguf
from training.pretrained import load_config

LINEAR = {"rope_type": "linear", "rope_theta": 20_000.0, "factor": 2.0}
FIELDS = (
    "num_hidden_layers", "max_position_embeddings", "hidden_size", "intermediate_size",
    "num_attention_heads", "num_key_value_heads", "rms_norm_eps", "vocab_size",
    "tie_word_embeddings", "rope_parameters",
)  # fmt: skip
GRANITE = (
    "embedding_multiplier", "residual_multiplier", "logits_scaling", "attention_multiplier"
)  # fmt: skip


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),
        ("llama", {"is_tied": False, "attention_bias": True, "rope_parameters": LINEAR}),
        ("llama", {"head_dim": 64, "rope_parameters": LLAMA3_ROPE}),
        ("mistral", {"sliding_window": None}),
        ("qwen2", {"use_sliding_window": False}),
        ("qwen3", {"is_tied": False}),
        ("granite", {}),
        ("smollm3", {"num_hidden_layers": 4, "no_rope_layer_interval": 4}),
    ],
)
def test_written_and_read_again_is_the_same_model(
    make_checkpoint: Callable[..., Path], tmp_path: Path, family: str, settings: dict[str, object]
) -> None:
    checkpoint, back = make_checkpoint(family, **settings), tmp_path / "back"
    write_gguf(checkpoint, tmp_path / "f32.gguf", dtype="f32", name="random")

    convert_gguf(tmp_path / "f32.gguf", back)

    wanted, found = (load_file(each / "model.safetensors") for each in (checkpoint, back))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    configs = [load_config(each) for each in (checkpoint, back)]
    for field in FIELDS + (GRANITE if family == "granite" else ()):
        before, after = (getattr(config, field) for config in configs)
        if isinstance(before, float | dict):
            assert after == pytest.approx(before), field
        else:
            assert after == before, field
    tokenizers = [Tokenizer.from_file(str(each / "tokenizer.json")) for each in (checkpoint, back)]
    text = f"<|im_start|>{TEXT}<|im_end|> naïve 日本\n\n  x"
    assert len({tuple(each.encode(text).ids) for each in tokenizers}) == 1
    assert read_special_tokens(back) == read_special_tokens(checkpoint)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_16_bits_stay_16_bits(
    make_checkpoint: Callable[..., Path], tmp_path: Path, family: str
) -> None:
    checkpoint, back = make_checkpoint(family), tmp_path / "back"
    write_gguf(checkpoint, tmp_path / "f16.gguf", dtype="f16", name="random")

    convert_gguf(tmp_path / "f16.gguf", back)

    wanted, found = (load_file(each / "model.safetensors") for each in (checkpoint, back))
    assert {tensor.dtype for tensor in found.values()} == {torch.float16, torch.float32}
    for name, tensor in found.items():
        assert torch.equal(tensor, wanted[name].to(tensor.dtype))
    assert load_config(back).dtype == torch.float16


@pytest.mark.parametrize(
    ("dtype", "kinds", "error"),
    [
        ("q8_0", {"token_embd": "Q8_0", "attn_q": "Q8_0", "attn_norm": "F32"}, 1 / 127),
        ("q4_0", {"token_embd": "Q8_0", "attn_q": "Q4_0", "attn_norm": "F32"}, 1 / 7),
    ],
)
def test_quantized_types_keep_what_needs_more_bits(
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    dtype: str,
    kinds: dict[str, str],
    error: float,
) -> None:
    checkpoint, back = make_checkpoint("qwen3"), tmp_path / "back"
    write_gguf(checkpoint, tmp_path / "q.gguf", dtype=dtype, name="random")

    convert_gguf(tmp_path / "q.gguf", back)

    tensors = GgufFile.read(tmp_path / "q.gguf").tensors
    assert kinds == {
        part: next(tensor.kind.name for name, tensor in tensors.items() if part in name)
        for part in kinds
    }
    wanted, found = (load_file(each / "model.safetensors") for each in (checkpoint, back))
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        assert (tensor - wanted[name]).abs().max() <= error * wanted[name].abs().max()


def test_windows_bound_the_context(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = make_checkpoint("mistral", max_model_len=128, sliding_window=24)
    write_gguf(checkpoint, tmp_path / "f32.gguf", dtype="f32", name="random")

    assert GgufFile.read(tmp_path / "f32.gguf").metadata["llama.context_length"] == 24


def test_chat_template_is_written_without_marks_for_training(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint("qwen3")
    write_gguf(checkpoint, tmp_path / "f32.gguf", dtype="f32", name="random")

    written = GgufFile.read(tmp_path / "f32.gguf").metadata["tokenizer.chat_template"]

    own = (checkpoint / "chat_template.jinja").read_text(encoding="utf-8")
    assert "generation %}" in own
    assert "generation %}" not in written
    assert ChatTemplate(written)


def save_large(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e5
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda folder: change_json(
                folder / "config.json",
                rope_parameters={
                    "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
                    "original_max_position_embeddings": 32,
                },
            ),
            "rope_type yarn cannot be written as GGUF",
        ),
        (
            lambda folder: change_json(folder / "config.json", hidden_act="gelu"),
            "llama.cpp knows this architecture with silu alone",
        ),
        (
            lambda folder: change_json(folder / "config.json", mlp_bias=True),
            "mlp_bias True cannot be written as GGUF",
        ),
        (make_tiny_tokenizer, "the tokenizer has no merges"),
        (
            lambda folder: change_json(
                folder / "tokenizer.json", pre_tokenizer={"type": "Whitespace"}
            ),
            "llama.cpp knows no pre-tokenizer like Whitespace",
        ),
        (
            lambda folder: change_json(folder / "tokenizer.json", normalizer={"type": "Lowercase"}),
            "the normalizer Lowercase cannot be written as GGUF",
        ),
        (save_large, "holds 1e[+]05, which 16 bits cannot express. Export with --dtype f32"),
    ],
)  # fmt: skip
def test_what_has_no_place_in_gguf_is_refused_by_name(
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    edit: Callable[[Path], object],
    message: str,
) -> None:
    checkpoint = make_checkpoint("llama")
    edit(checkpoint)

    with pytest.raises(ArtifactError, match=message):
        write_gguf(checkpoint, tmp_path / "f16.gguf", dtype="f16", name="random")


@pytest.mark.parametrize(
    ("family", "name"),
    [("gpt2", "GPT2LMHeadModel"), ("gemma3", "Gemma3ForCausalLM"), ("lstm", "RnnForCausalLM")],
)
def test_other_architectures_are_refused_by_name(tmp_path: Path, family: str, name: str) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "checkpoint", family=family)

    with pytest.raises(ArtifactError, match=f"{name} cannot be written as GGUF"):
        write_gguf(checkpoint, tmp_path / "f32.gguf", dtype="f32", name="random")


def test_rows_without_a_token_become_unused_tokens(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint("llama")
    tokens = len(json.loads((checkpoint / "tokenizer.json").read_text("utf-8"))["model"]["vocab"])
    write_gguf(checkpoint, tmp_path / "f32.gguf", dtype="f32", name="random")

    metadata = GgufFile.read(tmp_path / "f32.gguf").metadata

    assert metadata["tokenizer.ggml.tokens"][tokens:] == [
        f"[PAD{id_}]" for id_ in range(tokens, metadata["llama.vocab_size"])
    ]
    assert set(metadata["tokenizer.ggml.token_type"][tokens:]) == {5}
