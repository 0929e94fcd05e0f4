"""Our random Llama as a GGUF file; runs in the peers' environment, which has the gguf package.

    .venv-peers/bin/python -m benchmarks.peers.gguf_writer CHECKPOINT FILE F32|Q8_0|Q4_0

Every matrix gets the one type, the embedding table included, which is the head as well.
"""

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Array = NDArray[np.float32]

_TABLES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NORMAL, _CONTROL = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL


def write_gguf(checkpoint: Path, target: Path, quantization: str) -> None:
    """Convert a Llama checkpoint with tied tables.

    Args:
        checkpoint: Hugging Face folder.
        target: the file to write.
        quantization: name of a GGML type.
    """
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(target, "llama")
    _add_shape(writer, config)
    _add_tokenizer(writer, checkpoint, config)
    kind = gguf.GGMLQuantizationType[quantization]
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        _add_tensor(writer, *_renamed(name, tensor, config), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _add_tokenizer(writer: gguf.GGUFWriter, checkpoint: Path, config: dict[str, Any]) -> None:
    content = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = content["model"]["vocab"]
    special = {token["id"] for token in content["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(vocab, key=vocab.__getitem__))
    ids = range(config["vocab_size"])
    writer.add_token_types([_CONTROL if token_id in special else _NORMAL for token_id in ids])
    writer.add_token_merges(["a b"])  # the loader wants one; prompts come as token ids
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])


def _renamed(name: str, tensor: Array, config: dict[str, Any]) -> tuple[str, Array]:
    stem = name.removesuffix(".weight")
    if stem in _TABLES:
        return f"{_TABLES[stem]}.weight", tensor
    layer, _, part = stem.removeprefix("model.layers.").partition(".")
    if part == "self_attn.q_proj":
        tensor = _interleaved(tensor, config["num_attention_heads"])
    elif part == "self_attn.k_proj":
        tensor = _interleaved(tensor, config["num_key_value_heads"])
    return f"blk.{layer}.{_LAYER[part]}.weight", tensor


def _interleaved(tensor: Array, heads: int) -> Array:
    """Order a head's rows as llama.cpp rotates them: pairs of neighbours, not of halves."""
    rows, columns = tensor.shape
    halves = tensor.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def _add_tensor(
    writer: gguf.GGUFWriter, name: str, tensor: Array, kind: gguf.GGMLQuantizationType
) -> None:
    values = np.ascontiguousarray(tensor, np.float32)
    if tensor.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
        writer.add_tensor(name, values)
    else:
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


if __name__ == "__main__":
    write_gguf(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
