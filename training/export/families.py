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
        position_offset: rows at its start that stand for no position.
        norm: rms; rms_plus_one, whose weights are stored less one; layer, with mean and bias.
        query_key_value: three modules, or one that holds all three.
        query_norm, key_norm: RMS norms of each head before its rotation.
        attention_post_norm, mlp_post_norm: norms of what is added to the residual.
        gate_up: two modules or one that holds both; of an MLP without gate, the one module.
        is_gated: whether the MLP multiplies its activation by a second product.
        is_transposed: linear weights are stored [inputs, outputs], as GPT-2's Conv1D does.
        interleaves_heads: the one module of queries, keys and values has them head by head.
        normalizes_heads_together: query_norm and key_norm are over all heads at once.
        rotates_partly: heads may be rotated in their first part alone.
        scales_attention: scores are divided by the root of the head's width.
        is_parallel: attention and MLP read the same residual, unless the config says otherwise.
        scales_embedding: embeddings are multiplied by the root of the model's width.
        recurrent: the module that holds recurrent layers instead of `layer`.
    """

    architecture: str
    embedding: str = "model.embed_tokens"
    positions: str | None = None
    position_offset: int = 0
    layer: str = "model.layers.{layer}"
    norm: Literal["rms", "rms_plus_one", "layer"] = "rms"
    attention_norm: str | None = "input_layernorm"
    query_key_value: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    query_norm: str | None = None
    key_norm: str | None = None
    attention_output: str = "self_attn.o_proj"
    attention_post_norm: str | None = None
    mlp_norm: str | None = "post_attention_layernorm"
    gate_up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    is_gated: bool = True
    down: str = "mlp.down_proj"
    mlp_post_norm: str | None = None
    final_norm: str = "model.norm"
    head: str = "lm_head"
    is_transposed: bool = False
    interleaves_heads: bool = False
    normalizes_heads_together: bool = False
    rotates_partly: bool = False
    scales_attention: bool = True
    is_parallel: bool = False
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
_GPT_NEO = replace(
    _GPT2,
    architecture="GPTNeoForCausalLM",
    query_key_value=tuple(f"attn.attention.{part}_proj" for part in "qkv"),
    attention_output="attn.attention.out_proj",
    is_transposed=False,
    scales_attention=False,
)
_GPT_NEOX = Family(
    architecture="GPTNeoXForCausalLM",
    embedding="gpt_neox.embed_in",
    layer="gpt_neox.layers.{layer}",
    norm="layer",
    query_key_value=("attention.query_key_value",),
    attention_output="attention.dense",
    gate_up=("mlp.dense_h_to_4h",),
    is_gated=False,
    down="mlp.dense_4h_to_h",
    final_norm="gpt_neox.final_layer_norm",
    head="embed_out",
    interleaves_heads=True,
    rotates_partly=True,
    is_parallel=True,
)
_PHI = Family(
    architecture="PhiForCausalLM",
    norm="layer",
    attention_output="self_attn.dense",
    mlp_norm="input_layernorm",
    gate_up=("mlp.fc1",),
    is_gated=False,
    down="mlp.fc2",
    final_norm="model.final_layernorm",
    rotates_partly=True,
    is_parallel=True,
)
_PHI3 = replace(
    _LLAMA,
    architecture="Phi3ForCausalLM",
    query_key_value=("self_attn.qkv_proj",),
    gate_up=("mlp.gate_up_proj",),
    rotates_partly=True,
)
_OLMO2 = replace(
    _QWEN3,
    architecture="Olmo2ForCausalLM",
    attention_norm=None,
    attention_post_norm="post_attention_layernorm",
    mlp_norm=None,
    mlp_post_norm="post_feedforward_layernorm",
    normalizes_heads_together=True,
)
_STARCODER2 = replace(
    _LLAMA,
    architecture="Starcoder2ForCausalLM",
    norm="layer",
    gate_up=("mlp.c_fc",),
    is_gated=False,
    down="mlp.c_proj",
)
_OPT = Family(
    architecture="OPTForCausalLM",
    embedding="model.decoder.embed_tokens",
    positions="model.decoder.embed_positions",
    position_offset=2,
    layer="model.decoder.layers.{layer}",
    norm="layer",
    attention_norm="self_attn_layer_norm",
    attention_output="self_attn.out_proj",
    mlp_norm="final_layer_norm",
    gate_up=("fc1",),
    is_gated=False,
    down="fc2",
    final_norm="model.decoder.final_layer_norm",
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
        replace(_LLAMA, architecture="GraniteForCausalLM"),
        replace(_LLAMA, architecture="SmolLM3ForCausalLM"),
        replace(_LLAMA, architecture="StableLmForCausalLM", norm="layer", rotates_partly=True),
        _OLMO2,
        _PHI,
        _PHI3,
        _STARCODER2,
        _GPT2,
        _GPT_NEO,
        _GPT_NEOX,
        _OPT,
        _RNN,
    )
}
