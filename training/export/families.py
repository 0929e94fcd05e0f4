"""What differs between model architectures, as data; the graph builder reads it and asks no names.

A new decoder-only architecture whose layers are norm, attention, norm, gated MLP is one more entry
of `FAMILIES`. What the graph cannot express (another activation, a sliding window, a rotary
scaling that depends on the length) is refused here by name.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from everloop.errors import ArtifactError


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Names of an architecture's modules in its checkpoint; None = the architecture has none.

    Names of a layer's modules are relative to `layer`. A linear module's bias is used when the
    checkpoint holds one.
    """

    architecture: str
    embedding: str = "model.embed_tokens"
    layer: str = "model.layers.{layer}"
    attention_norm: str = "input_layernorm"
    query: str = "self_attn.q_proj"
    key: str = "self_attn.k_proj"
    value: str = "self_attn.v_proj"
    query_norm: str | None = None
    key_norm: str | None = None
    attention_output: str = "self_attn.o_proj"
    mlp_norm: str = "post_attention_layernorm"
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    final_norm: str = "model.norm"
    head: str = "lm_head"


FAMILIES: Mapping[str, Family] = {
    family.architecture: family
    for family in (
        Family(architecture="LlamaForCausalLM"),
        Family(
            architecture="Qwen3ForCausalLM",
            query_norm="self_attn.q_norm",
            key_norm="self_attn.k_norm",
        ),
    )
}

# Rotary scalings whose table does not depend on the length of the sequence.
_FIXED_ROPE_TYPES = ("linear", "llama3", "yarn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One checkpoint's family and sizes."""

    family: Family
    model_type: str
    n_layer: int
    n_head: int
    n_kv_head: int
    head_dim: int
    n_embd: int
    n_ff: int
    vocab_size: int
    max_seq_len: int
    norm_epsilon: float
    is_tied: bool
    inverse_frequencies: tuple[float, ...]  # head_dim / 2 values, radians per position
    rotary_scale: float  # on cosines and sines

    def rotary_table(self, positions: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and sines of positions 0 to `positions` - 1, each [positions, head_dim / 2]."""
        frequencies = torch.tensor(self.inverse_frequencies, dtype=torch.float32)
        angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies)
        return (
            (angles.cos() * self.rotary_scale).numpy(),
            (angles.sin() * self.rotary_scale).numpy(),
        )


def read_architecture(checkpoint: Path) -> Architecture:
    """Read a Hugging Face config.json.

    Raises:
        ArtifactError: there is none, or the architecture or one of its settings is not supported.
    """
    path = checkpoint / "config.json"
    family = FAMILIES[_architecture_name(path)]
    try:
        config = AutoConfig.from_pretrained(checkpoint, local_files_only=True)
    except Exception as error:  # transformers' checks have no base of their own
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{path}: transformers refuses it: {reason}.") from error
    _refuse_unsupported(path, config)
    head_dim = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    frequencies, scale = _rotary(path, config, head_dim)
    return Architecture(
        family=family,
        model_type=config.model_type,
        n_layer=config.num_hidden_layers,
        n_head=config.num_attention_heads,
        n_kv_head=config.num_key_value_heads,
        head_dim=head_dim,
        n_embd=config.hidden_size,
        n_ff=config.intermediate_size,
        vocab_size=config.vocab_size,
        max_seq_len=config.max_position_embeddings,
        norm_epsilon=config.rms_norm_eps,
        is_tied=config.tie_word_embeddings,
        inverse_frequencies=tuple(frequencies.tolist()),
        rotary_scale=scale,
    )


def _architecture_name(path: Path) -> str:
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(
            f"{path.parent} is not a checkpoint: config.json is missing. Train or copy one there."
        ) from error
    except ValueError as error:
        raise ArtifactError(f"{path}: not readable as JSON: {error}.") from error
    names = raw.get("architectures") or [raw.get("model_type", "none named")]
    if names[0] not in FAMILIES:
        raise ArtifactError(
            f"{path}: architecture {names[0]} cannot be exported; supported: "
            f"{', '.join(sorted(FAMILIES))}."
        )
    return str(names[0])


def _refuse_unsupported(path: Path, config: PreTrainedConfig) -> None:
    if config.hidden_act != "silu":
        raise ArtifactError(
            f"{path}: hidden_act {config.hidden_act} cannot be exported; supported: silu."
        )
    layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
    if layer_types != {"full_attention"}:
        raise ArtifactError(
            f"{path}: layer_types {sorted(layer_types)} cannot be exported; "
            "supported: full_attention in every layer."
        )


def _rotary(path: Path, config: PreTrainedConfig, head_dim: int) -> tuple[torch.Tensor, float]:
    if head_dim % 16:
        raise ArtifactError(f"{path}: head_dim must be divisible by 16, got {head_dim}.")
    parameters = config.rope_parameters
    rope_type = parameters.get("rope_type", "default")
    if rope_type == "default":
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        return 1.0 / parameters["rope_theta"] ** exponents, 1.0
    if rope_type not in _FIXED_ROPE_TYPES:
        raise ArtifactError(
            f"{path}: rope_type {rope_type} cannot be exported; supported: default, "
            f"{', '.join(_FIXED_ROPE_TYPES)}."
        )
    frequencies, scale = ROPE_INIT_FUNCTIONS[rope_type](config, torch.device("cpu"))
    return frequencies, float(scale)
