"""The state tensors of a graph: what the engine keeps for every sequence, and hands in and out."""

from everloop.manifest import StateTensor
from training.export.architecture import Architecture, Attention

_RECURRENT_PARTS = {"lstm": ("h", "c"), "gru": ("h",)}


def state_tensors(architecture: Architecture) -> tuple[StateTensor, ...]:
    """Describe the state of every layer, in the order of the graph's inputs."""
    body = architecture.body
    layers = range(architecture.n_layer)
    if isinstance(body, Attention):
        return tuple(
            StateTensor(
                input=f"past_key_values.{layer}.{part}",
                output=f"present.{layer}.{part}",
                kind="kv",
                shape=(body.n_kv_head, "capacity", body.head_dim),
                dtype="float32",
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
