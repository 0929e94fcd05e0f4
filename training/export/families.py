"""What differs between the architectures' checkpoints, as data: names of modules, kinds of norms.

The graph builder reads a family and never asks for its name; sizes and settings come from the
checkpoint's own config (`architecture.py`). A new decoder whose layers are norm, attention, norm,
MLP is one more entry of `FAMILIES`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Names of an architecture's modules in its checkpoint; None = the architecture has none.

    Names of a layer's modules are relative to `layer`. A linear module's bias is used when the
    checkpoint holds one.

    Attributes:
        positions: table of learned positions, added to the embedding.
        norm: rms; rms_plus_one, whose weights are stored less one; layer, with mean and bias.
        query_key_value: three modules, or one that holds all three.
        query_norm, key_norm: RMS norms of each head before its rotation.
        attention_post_norm, mlp_post_norm: norms of what is added to the residual.
        gate_up: two modules or one that holds both; of an MLP without gate, the one module.
        is_gated: whether the MLP multiplies its activation by a second product.
        is_transposed: linear weights are stored [inputs, outputs], as GPT-2's Conv1D does.
        scales_embedding: embeddings are multiplied by the root of the model's width.
        recurrent: the module that holds recurrent layers instead of `layer`.
    """

    architecture: str
    embedding: str = "model.embed_tokens"
    positions: str | None = None
    layer: str = "model.layers.{layer}"
    norm: Literal["rms", "rms_plus_one", "layer"] = "rms"
    attention_norm: str = "input_layernorm"
    query_key_value: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    query_norm: str | None = None
    key_norm: str | None = None
    attention_output: str = "self_attn.o_proj"
    attention_post_norm: str | None = None
    mlp_norm: str = "post_attention_layernorm"
    gate_up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    is_gated: bool = True
    down: str = "mlp.down_proj"
    mlp_post_norm: str | None = None
    final_norm: str = "model.norm"
    head: str = "lm_head"
    is_transposed: bool = False
    scales_embedding: bool = False
    recurrent: str | None = None


_LLAMA = Family(architecture="LlamaForCausalLM")
_QWEN3 = replace(
    _LLAMA,
    architecture="Qwen3ForCausalLM",
    query_norm="self_attn.q_norm",
    key_norm="self_attn.k_norm",
)
_GEMMA = replace(
    _LLAMA, architecture="GemmaForCausalLM", norm="rms_plus_one", scales_embedding=True
)
_GEMMA2 = replace(
    _GEMMA,
    architecture="Gemma2ForCausalLM",
    attention_post_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
)
_GEMMA3 = replace(
    _GEMMA2,
    architecture="Gemma3ForCausalLM",
    query_norm="self_attn.q_norm",
    key_norm="self_attn.k_norm",
)
_GPT2 = Family(
    architecture="GPT2LMHeadModel",
    embedding="transformer.wte",
    positions="transformer.wpe",
    layer="transformer.h.{layer}",
    norm="layer",
    attention_norm="ln_1",
    query_key_value=("attn.c_attn",),
    attention_output="attn.c_proj",
    mlp_norm="ln_2",
    gate_up=("mlp.c_fc",),
    is_gated=False,
    down="mlp.c_proj",
    final_norm="transformer.ln_f",
    is_transposed=True,
)
_RNN = Family(architecture="RnnForCausalLM", recurrent="model.rnn")

FAMILIES: Mapping[str, Family] = {
    family.architecture: family
    for family in (
        _LLAMA,
        replace(_LLAMA, architecture="MistralForCausalLM"),
        replace(_LLAMA, architecture="Qwen2ForCausalLM"),
        _QWEN3,
        _GEMMA,
        _GEMMA2,
        _GEMMA3,
        _GPT2,
        _RNN,
    )
}
