"""The sizes and settings of one checkpoint, read from its config.json.

What the graph cannot express is refused here by name; nothing is ignored.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedConfig

from everloop.errors import ArtifactError
from training.export.families import FAMILIES, Family
from training.export.heads import HeadLayout
from training.export.rotary import Rotary, read_rotaries
from training.pretrained import load_config

# As the config names them: what the graph builder calls them.
_ACTIVATIONS: Mapping[str, str] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
}
_UNBOUND_SEQ_LEN = 4096  # of a recurrent model: every state is of one size, at any length
_FF_WIDTHS = ("intermediate_size", "n_inner", "ffn_dim")
_EPSILONS = ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_epsilon")
_TORCH_EPSILON = 1e-5  # of a LayerNorm whose config names none
_LAYER_TYPES = {
    "full_attention": False,
    "sliding_attention": True,
    "global": False,  # GPT-Neo's words
    "local": True,
}  # whether a window bounds what a token sees
# Settings that change the result, with the only value that has a place in the graph.
_ONLY: Mapping[str, object] = {
    "add_cross_attention": False,
    "do_layer_norm_before": True,
    "is_encoder_decoder": False,
    "layer_norm_elementwise_affine": True,
    "per_layer_config": None,
    "qk_layernorm": False,
    "quantization_config": None,
    "use_bidirectional_attention": False,
}


@dataclass(frozen=True, slots=True)
class AttentionLayer:
    """What may differ from layer to layer.

    Attributes:
        scale: on the products of queries and keys.
        window: tokens that a token sees, itself included; None = all before it.
        rotary: kind of its rotary table; None = heads are not rotated.
    """

    scale: float
    window: int | None
    rotary: str | None


@dataclass(frozen=True, slots=True)
class Attention:
    """Layers of attention and MLP.

    Attributes:
        n_ff: width inside the MLP.
        softcap: of the attention's scores; 0 = none.
        is_parallel: attention and MLP read the same residual.
        rotaries: by kind of layer.
    """

    n_head: int
    n_kv_head: int
    head: HeadLayout
    n_ff: int
    activation: str
    softcap: float
    is_parallel: bool
    rotaries: Mapping[str, Rotary]
    layers: tuple[AttentionLayer, ...]

    @property
    def head_dim(self) -> int:
        """Width of a head in the graph."""
        return self.head.width


@dataclass(frozen=True, slots=True)
class Recurrence:
    """Recurrent layers."""

    cell: Literal["lstm", "gru"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One checkpoint's family, sizes and settings.

    Attributes:
        max_seq_len: the most tokens, or a sensible number where the model sets no bound.
        is_length_bound: whether more are impossible.
        embedding_scale: on the embedding; 1 = none.
        residual_scale: on what attention and MLP add to the residual; 1 = none.
        logits_scale: on the logits; 1 = none.
        logits_softcap: 0 = none.
    """

    family: Family
    model_type: str
    n_layer: int
    n_embd: int
    vocab_size: int
    max_seq_len: int
    is_length_bound: bool
    norm_epsilon: float
    is_tied: bool
    embedding_scale: float
    residual_scale: float
    logits_scale: float
    logits_softcap: float
    body: Attention | Recurrence


def read_architecture(checkpoint: Path) -> Architecture:
    """Read a Hugging Face config.json.

    Raises:
        ArtifactError: there is none, or the architecture or one of its settings is not supported.
    """
    path = checkpoint / "config.json"
    raw = _read_json(path)
    family = _family(path, raw)
    try:
        config = load_config(checkpoint)
    except Exception as error:  # transformers' checks have no base of their own
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{path}: transformers refuses it: {reason}.") from error
    for name, value in _ONLY.items():
        if (raw.get(name, value) or None) != (value or None):
            raise ArtifactError(f"{path}: {name} {raw[name]} cannot be exported.")
    is_recurrent = family.recurrent is not None
    body = Recurrence(config.cell) if is_recurrent else _attention(path, config, family)
    return Architecture(
        family=family,
        model_type=config.cell if is_recurrent else config.model_type,
        n_layer=config.num_hidden_layers,
        n_embd=config.hidden_size,
        vocab_size=config.vocab_size,
        max_seq_len=_max_seq_len(config, body),
        is_length_bound=not is_recurrent,
        norm_epsilon=_first(config, *_EPSILONS, default=_TORCH_EPSILON),
        is_tied=config.tie_word_embeddings,
        embedding_scale=(
            config.hidden_size**0.5
            if family.scales_embedding
            else float(getattr(config, "embedding_multiplier", 1.0))
        ),
        residual_scale=float(getattr(config, "residual_multiplier", 1.0)),
        logits_scale=1 / getattr(config, "logits_scaling", 1.0),
        logits_softcap=getattr(config, "final_logit_softcapping", None) or 0.0,
        body=body,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(
            f"{path.parent} is not a checkpoint: config.json is missing. Train or copy one there."
        ) from error
    except ValueError as error:
        raise ArtifactError(f"{path}: not readable as JSON: {error}.") from error
    return raw


def _family(path: Path, raw: Mapping[str, Any]) -> Family:
    names = raw.get("architectures") or [raw.get("model_type", "none named")]
    if names[0] not in FAMILIES:
        raise ArtifactError(
            f"{path}: architecture {names[0]} cannot be exported; supported: "
            f"{', '.join(sorted(FAMILIES))}."
        )
    return FAMILIES[names[0]]


def _attention(path: Path, config: PreTrainedConfig, family: Family) -> Attention:
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    rotaries = read_rotaries(path, config, head_dim, allows_part=family.rotates_partly)
    pairs = max((len(rotary.inverse_frequencies) for rotary in rotaries.values()), default=0)
    head = HeadLayout(head_dim, pairs)
    if family.query_norm and head.width != head_dim:
        raise ArtifactError(
            f"{path}: head_dim must be divisible by 16 where heads are normalized, got {head_dim}."
        )
    return Attention(
        n_head=heads,
        n_kv_head=getattr(config, "num_key_value_heads", None) or heads,
        head=head,
        n_ff=_first(config, *_FF_WIDTHS, default=4 * config.hidden_size),
        activation=_activation(path, config),
        softcap=getattr(config, "attn_logit_softcapping", None) or 0.0,
        is_parallel=getattr(config, "use_parallel_residual", family.is_parallel),
        rotaries=rotaries,
        layers=tuple(
            AttentionLayer(_scale(config, family, head_dim, layer), window, rotary)
            for layer, (window, rotary) in enumerate(_layer_kinds(path, config, rotaries))
        ),
    )


def _max_seq_len(config: PreTrainedConfig, body: Attention | Recurrence) -> int:
    length: int = config.max_position_embeddings
    if isinstance(body, Recurrence):
        return max(length, _UNBOUND_SEQ_LEN)
    bounds = [rotary.max_positions for rotary in body.rotaries.values()]
    return min([length, *(bound for bound in bounds if bound is not None)])


def _activation(path: Path, config: PreTrainedConfig) -> str:
    name = _first(config, "hidden_activation", "hidden_act", "activation_function", default="none")
    if name not in _ACTIVATIONS:
        raise ArtifactError(
            f"{path}: activation {name} cannot be exported; supported: {', '.join(_ACTIVATIONS)}."
        )
    return _ACTIVATIONS[name]


def _scale(config: PreTrainedConfig, family: Family, head_dim: int, layer: int) -> float:
    if hasattr(config, "attention_multiplier"):
        return float(config.attention_multiplier)
    if not (family.scales_attention and getattr(config, "scale_attn_weights", True)):
        scale = 1.0
    else:
        scale = float(getattr(config, "query_pre_attn_scalar", head_dim) ** -0.5)
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        scale /= layer + 1
    return scale


def _layer_kinds(
    path: Path, config: PreTrainedConfig, rotaries: Mapping[str, Rotary]
) -> list[tuple[int | None, str | None]]:
    """Window and kind of rotary table of each layer."""
    count = config.num_hidden_layers
    window = _first(config, "sliding_window", "window_size", default=None)
    everywhere = "full_attention" if window is None else "sliding_attention"
    kinds = _first(config, "layer_types", "attention_layers", default=[everywhere] * count)
    unknown = sorted(set(kinds) - set(_LAYER_TYPES))
    if unknown:
        raise ArtifactError(
            f"{path}: layer_types {unknown} cannot be exported; supported: "
            f"{', '.join(_LAYER_TYPES)}."
        )
    if window is None and any(_LAYER_TYPES[kind] for kind in kinds):
        raise ArtifactError(f"{path}: layer_types has sliding_attention without a sliding_window.")
    only = "" if "" in rotaries else None
    rotated = _first(config, "no_rope_layers", default=[1] * count)  # 1 = with rotary positions
    return [
        (
            window if _LAYER_TYPES[kind] else None,
            (kind if kind in rotaries else only) if is_rotated else None,
        )
        for kind, is_rotated in zip(kinds, rotated, strict=True)
    ]


def _first(config: PreTrainedConfig, *names: str, default: Any) -> Any:
    """The first of some fields that the config has a value for."""
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if value is not None), default)
