"""The state tensors of a graph: what the engine keeps for every sequence, and hands in and out."""

from typing import Literal

from everloop.manifest import StateTensor
from training.export.architecture import Architecture, Attention

_RECURRENT_PARTS = {"lstm": ("h", "c"), "gru": ("h",)}


def state_tensors(
    architecture: Architecture, cache: Literal["fp32", "int8"] = "fp32"
) -> tuple[StateTensor, ...]:
    """Describe the state of every layer, in the order of the graph's inputs.

    Args:
        architecture: attention keeps keys and values, recurrent layers a fixed state.
        cache: precision of keys and values; recurrent state is always fp32.
    """
    body = architecture.body
    layers = range(architecture.n_layer)
    if isinstance(body, Attention):
        return tuple(
            StateTensor(
                input=f"past_key_values.{layer}.{part}",
                output=f"present.{layer}.{part}",
                kind="kv",
                shape=(body.n_kv_head, "capacity", body.head_dim),
                dtype="int8" if cache == "int8" else "float32",
            )
            for layer in layers
            for part in ("key", "value")
        )
    return tuple(
        StateTensor(
            input=f"past.{layer}.{part}",
            output=f"present.{layer}.{part}",
            kind="recurrent",
            shape=(architecture.n_embd,),
            dtype="float32",
        )
        for layer in layers
        for part in _RECURRENT_PARTS[body.cell]
    )


def layer_state(architecture: Architecture, layer: int) -> tuple[StateTensor, ...]:
    """The state tensors of one layer."""
    every = state_tensors(architecture)
    width = len(every) // architecture.n_layer
    return every[layer * width : (layer + 1) * width]
