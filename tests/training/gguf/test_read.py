import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer

from everloop.errors import ArtifactError
from training.gguf.read import convert_gguf, model_name

WIDTH = 32
TOKENS = ["<|end|>", "a", "b", "ab"]
METADATA: dict[str, Any] = {
    "general.architecture": "qwen2",
    "qwen2.block_count": 1,
    "qwen2.context_length": 64,
    "qwen2.embedding_length": WIDTH,
    "qwen2.feed_forward_length": 64,
    "qwen2.attention.head_count": 2,
    "qwen2.attention.layer_norm_rms_epsilon": 1e-6,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "qwen2",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3, 1, 1, 1],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 0,
}


def write(
    path: Path, metadata: dict[str, Any], *, layers: int = 1, more: tuple[str, ...] = ()
) -> Path:
    """A random Qwen2 by the gguf package, whose metadata say what they are told to."""
    writer = gguf.GGUFWriter(path, metadata["general.architecture"])
    for key, value in metadata.items():
        if key == "general.architecture":
            continue
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_float32(key, value)
    width, ff = WIDTH, metadata["qwen2.feed_forward_length"]
    shapes = {"token_embd.weight": (len(TOKENS), width), "output_norm.weight": (width,)}
    for layer in range(layers):
        block = {"attn_norm.weight": (width,), "ffn_norm.weight": (width,)}
        block |= {f"attn_{part}.weight": (width, width) for part in ("q", "k", "v", "output")}
        block |= {f"attn_{part}.bias": (width,) for part in "qkv"}
        block |= {"ffn_gate.weight": (ff, width), "ffn_up.weight": (ff, width)}
        block |= {"ffn_down.weight": (width, ff)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    for name, shape in (shapes | dict.fromkeys(more, (width,))).items():
        values = np.full(shape, 0.5, np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0 if len(shape) > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_convert_takes_what_another_program_wrote(tmp_path: Path) -> None:
    convert_gguf(write(tmp_path / "a.gguf", METADATA), tmp_path / "out")

    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"general.architecture": "mamba"},
            "architecture mamba cannot be imported from GGUF; supported: llama, qwen2, qwen3",
        ),
        ({"qwen2.expert_count": 8}, "qwen2.expert_count = 8 cannot be imported"),
        ({"qwen2.attention.sliding_window": 8}, "attention.sliding_window = 8 cannot be imported"),
        ({"qwen2.attention.head_count": [2, 2]}, r"head_count must be one number, got \[2, 2\]"),
        ({"qwen2.rope.dimension_count": 8}, "must be the 16 of a head's keys, got 8"),
        ({"qwen2.rope.scaling.type": "yarn"}, "rope.scaling.type yarn cannot be imported"),
        ({"qwen2.embedding_length": 48}, r"tensor token_embd.weight must have shape \(4, 48\)"),
        ({"qwen2.block_count": 2}, "tensor blk.1.attn_q.weight is missing"),
        ({"tokenizer.ggml.model": "llama"}, "a tokenizer of the kind llama cannot be converted"),
        ({"tokenizer.ggml.pre": "gpt-4o"}, "the pre-tokenizer gpt-4o cannot be converted"),
        ({"tokenizer.ggml.token_type": [3, 1]}, "4 tokens have 2 types"),
        ({"tokenizer.ggml.tokens": ["a", "a", "b", "ab"]}, "a token is twice in it"),
        ({"tokenizer.ggml.merges": ["ab"]}, "the merge 'ab' is not two parts"),
        ({"tokenizer.ggml.merges": ["a c"]}, "its tokenizer cannot be converted: "),
    ],
)
def test_what_cannot_be_imported_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "a.gguf", METADATA | change)

    with pytest.raises(ArtifactError, match=message) as refused:
        convert_gguf(path, tmp_path / "out")
    assert str(path) in str(refused.value)


def test_tensor_without_a_place_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", METADATA, more=("blk.0.attn_q_norm.weight",))

    with pytest.raises(ArtifactError, match=r"the first is blk\.0\.attn_q_norm\.weight"):
        convert_gguf(path, tmp_path / "out")


def test_memory_is_that_of_the_largest_tensor(tmp_path: Path) -> None:
    wide = METADATA | {"qwen2.feed_forward_length": 8192, "qwen2.block_count": 12}
    path = write(tmp_path / "a.gguf", wide, layers=12)
    convert_gguf(path, tmp_path / "warm")  # what is imported and compiled is not counted

    tracemalloc.start()
    convert_gguf(path, tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    largest = 8192 * WIDTH * 4
    written = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert written > 30 * largest
    assert peak < 8 * largest


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct"),
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Llama-3.2-1B-Instruct"),
        ("gemma-3-270m-it-UD-Q6_K_XL.gguf", "gemma-3-270m-it"),
        ("qwen2.5-0.5b-instruct-q8_0-00001-of-00002.gguf", "qwen2.5-0.5b-instruct"),
        ("mine-BF16.gguf", "mine"),
        ("mine.fp16.gguf", "mine"),
        ("mistral-7b-v0.1.gguf", "mistral-7b-v0.1"),
        ("model.gguf", "Tiny Qwen 1M"),
        ("ggml-model-q4_0.gguf", "Tiny Qwen 1M"),
        ("Q4_K_M.gguf", "Tiny Qwen 1M"),
        (f"sha256-{'0a' * 32}.gguf", "Tiny Qwen 1M"),
    ],
)
def test_model_name_is_the_files_without_its_type(tmp_path: Path, file: str, name: str) -> None:
    path = write(tmp_path / file, METADATA | {"general.name": "Tiny Qwen 1M"})

    assert model_name(path) == name


@pytest.mark.parametrize("change", [{"general.name": " "}, {}])
def test_model_name_is_the_files_where_nothing_says_any(
    tmp_path: Path, change: dict[str, str]
) -> None:
    assert model_name(write(tmp_path / "model.gguf", METADATA | change)) == "model"


@pytest.mark.parametrize(
    ("pre", "change", "first"),
    [
        ("llama-bpe", {"tokenizer.ggml.bos_token_id": 0}, [0]),
        ("llama-bpe", {"tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.add_bos_token": 0}, []),
        ("qwen2", {"tokenizer.ggml.bos_token_id": 0}, []),
        ("qwen2", {"tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.add_bos_token": 1}, [0]),
        ("llama-bpe", {}, []),
    ],
)
def test_texts_begin_with_bos_where_the_file_or_its_kind_says_so(
    tmp_path: Path, pre: str, change: dict[str, int], first: list[int]
) -> None:
    path = write(tmp_path / "a.gguf", METADATA | {"tokenizer.ggml.pre": pre} | change)
    convert_gguf(path, tmp_path / "out")

    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert tokenizer.encode("ab").ids == [*first, 3]
