"""Which architectures a GGUF file and a Hugging Face folder say the same of, and in which words.

Each was compared with llama.cpp's code in both directions (tests/training/gguf). Its metadata are
known to the last key: a key without a place here could change the result, so it is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
import torch
from gguf import MODEL_ARCH
from transformers import AutoModelForCausalLM, PreTrainedConfig

from everloop.errors import ArtifactError
from training.gguf.file import GgufFile
from training.gguf.rope import ROPE_KEYS, read_rope

# As a GGUF file names them, behind the architecture's name: what config.json names them.
COUNTS: Mapping[str, str] = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
}
_EPSILON = {"attention.layer_norm_rms_epsilon": "rms_norm_eps"}
_GRANITE = {
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
    "attention.scale": "attention_multiplier",
}
_IMPLIED = ("vocab_size", "rope.dimension_count", "attention.value_length")  # checked, or known
_ZERO = ("expert_count", "expert_used_count")  # of a model without experts
_HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufArchitecture:
    """One architecture of GGUF files.

    Attributes:
        id: of the gguf package, whose table names the tensors.
        architectures: in config.json; the first is what a file of unknown origin becomes.
        is_permuted: rows of queries and keys are ordered for rotating neighbours, not halves.
        numbers: settings that are no counts, by key.
        no_rope_interval: every so-manieth layer is not rotated, which llama.cpp takes for granted.
    """

    id: MODEL_ARCH
    architectures: tuple[str, ...]
    model_type: str
    is_permuted: bool = False
    numbers: Mapping[str, str]
    no_rope_interval: int | None = None


ARCHITECTURES: Mapping[str, GgufArchitecture] = {
    "llama": GgufArchitecture(
        id=MODEL_ARCH.LLAMA,
        architectures=("LlamaForCausalLM", "MistralForCausalLM"),
        model_type="llama",
        is_permuted=True,
        numbers=_EPSILON,
    ),
    "qwen2": GgufArchitecture(
        id=MODEL_ARCH.QWEN2,
        architectures=("Qwen2ForCausalLM",),
        model_type="qwen2",
        numbers=_EPSILON,
    ),
    "qwen3": GgufArchitecture(
        id=MODEL_ARCH.QWEN3,
        architectures=("Qwen3ForCausalLM",),
        model_type="qwen3",
        numbers=_EPSILON,
    ),
    "granite": GgufArchitecture(
        id=MODEL_ARCH.GRANITE,
        architectures=("GraniteForCausalLM",),
        model_type="granite",
        is_permuted=True,
        numbers=_EPSILON | _GRANITE,
    ),
    "smollm3": GgufArchitecture(
        id=MODEL_ARCH.SMOLLM3,
        architectures=("SmolLM3ForCausalLM",),
        model_type="smollm3",
        is_permuted=True,
        numbers=_EPSILON,
        no_rope_interval=4,
    ),
}


def architecture_of(file: GgufFile) -> GgufArchitecture:
    """The architecture that a file names.

    Raises:
        ArtifactError: it is not supported.
    """
    name = file.metadata.get("general.architecture", "none named")
    if name not in ARCHITECTURES:
        raise ArtifactError(
            f"{file.path}: architecture {name} cannot be imported from GGUF; supported: "
            f"{', '.join(ARCHITECTURES)}."
        )
    return ARCHITECTURES[name]


def read_config(file: GgufFile) -> dict[str, Any]:
    """The config.json that a file's metadata and tensors amount to, special tokens left out.

    Raises:
        ArtifactError: the architecture or one of its settings is not supported, or is missing.
    """
    known = architecture_of(file)
    prefix = f"{file.metadata['general.architecture']}."
    values = {
        key.removeprefix(prefix): value
        for key, value in file.metadata.items()
        if key.startswith(prefix)
    }
    _refuse_unknown(file, prefix, values, known)
    values.setdefault("attention.head_count_kv", values.get("attention.head_count"))
    width, heads = values.get("embedding_length"), values.get("attention.head_count")
    if isinstance(width, int) and isinstance(heads, int) and heads:
        values.setdefault("attention.key_length", width // heads)
    for key in (*COUNTS, *known.numbers):
        if not isinstance(values.get(key), int | float):
            raise ArtifactError(
                f"{file.path}: {prefix}{key} must be one number, got {values.get(key)!r}."
            )
    head_dim = values["attention.key_length"]
    for key in ("attention.value_length", "rope.dimension_count"):
        if values.get(key, head_dim) != head_dim:
            raise ArtifactError(
                f"{file.path}: {prefix}{key} must be the {head_dim} of a head's keys, got "
                f"{values[key]}."
            )
    if "token_embd.weight" not in file.tensors:
        raise ArtifactError(f"{file.path}: tensor token_embd.weight is missing.")
    config: dict[str, Any] = {
        "architectures": list(known.architectures[:1]),
        "model_type": known.model_type,
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "rope_parameters": read_rope(file, prefix, values, head_dim),
    }
    config |= {name: values[key] for key, name in COUNTS.items()}
    config |= {name: _shortest(values[key]) for key, name in known.numbers.items()}
    if "blk.0.attn_output.bias" in file.tensors:
        config["attention_bias"] = True
    if known.no_rope_interval is not None:
        config["no_rope_layer_interval"] = known.no_rope_interval
    return config


def _refuse_unknown(
    file: GgufFile, prefix: str, values: Mapping[str, Any], known: GgufArchitecture
) -> None:
    expected = {*COUNTS, *known.numbers, *ROPE_KEYS, *_IMPLIED, *_ZERO}
    for key, value in values.items():
        if key not in expected or (key in _ZERO and value):
            raise ArtifactError(f"{file.path}: {prefix}{key} = {value!r} cannot be imported.")


def _shortest(value: float) -> float:
    """The number with the fewest digits that is this float32: 1e-05 for 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def tensor_names(
    known: GgufArchitecture, config: PreTrainedConfig
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Every weight of a model: its name in safetensors to that in GGUF and its shape.

    Raises:
        ArtifactError: a weight has no name in GGUF.
    """
    with torch.device("meta"):  # names and shapes alone
        model = AutoModelForCausalLM.from_config(config)
    names = gguf.get_tensor_name_map(known.id, config.num_hidden_layers)
    found = {}
    for name, tensor in model.state_dict().items():
        if name == _HEAD and config.tie_word_embeddings:
            continue
        translated = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if translated is None:
            raise ArtifactError(f"tensor {name} of {config.model_type} has no name in GGUF.")
        found[name] = (translated, tuple(tensor.shape))
    return found


def heads_of(name: str, config: PreTrainedConfig) -> int | None:
    """Heads in the rows of a permuted weight; None where rows are in the same order on both sides.

    Args:
        name: in GGUF.
        config: of the model.
    """
    part = name.split(".")[-2]
    return {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(part)


def to_neighbours(values: np.ndarray, heads: int) -> np.ndarray:
    """Order each head's rows so that those rotated together are neighbours, as llama.cpp's are.

    Args:
        values: weight [heads * width, inputs] or bias [heads * width] whose pairs lie half a head
            apart.
        heads: of queries, or the fewer of keys.
    """
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, -1)
    return halves.swapaxes(1, 2).reshape(values.shape)


def to_halves(values: np.ndarray, heads: int) -> np.ndarray:
    """Undo `to_neighbours`."""
    neighbours = values.reshape(heads, values.shape[0] // heads // 2, 2, -1)
    return neighbours.swapaxes(1, 2).reshape(values.shape)
