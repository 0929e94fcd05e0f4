"""The state of every slot: preallocated tensors [slots, …] that every run updates in place.

Of two kinds: `kv` holds an entry per token, so a shorter prefix of it is the state after that
prefix; `recurrent` is the state after all tokens and no others.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everloop.manifest import Manifest, StateTensor
from serving.engine.fresh_zeros import fresh_zeros


class StateView(NamedTuple):
    """Neighbouring slots of one state tensor, as the graph sees them."""

    input: str
    output: str
    dtype: type[np.generic]
    shape: tuple[int, ...]
    address: int


class SlotState:
    """The state tensors of a model version.

    Attributes:
        capacity: tokens that a slot has room for; None without a tensor that grows.
        is_recurrent: whether some of it is recurrent.
    """

    def __init__(self, manifest: Manifest, num_slots: int) -> None:
        self._tensors = [
            (tensor, fresh_zeros((num_slots, *shape), tensor.dtype))
            for tensor, shape in zip(manifest.state, state_shapes(manifest), strict=True)
        ]
        self.is_recurrent = any(tensor.kind == "recurrent" for tensor in manifest.state)
        has_cache = any(tensor.kind == "kv" for tensor in manifest.state)
        self.capacity = capacity(manifest) if has_cache else None

    def view(self, first_slot: int, num_slots: int) -> Iterator[StateView]:
        """Give every tensor from a slot on."""
        for tensor, values in self._tensors:
            yield StateView(
                tensor.input,
                tensor.output,
                values.dtype.type,
                (num_slots, *values.shape[1:]),
                values.ctypes.data + first_slot * values.strides[0],
            )

    def reset(self, slot: int) -> None:
        """Make a slot ready for the first token of a sequence."""
        for tensor, values in self._tensors:
            if tensor.kind == "recurrent":
                values[slot] = 0

    def copy_prefix(self, source: int, target: int, num_tokens: int) -> None:
        """Copy the entries of a slot's first tokens to another slot. Of `kv` state only."""
        for tensor, values in self._tensors:
            first = (slice(None),) * tensor.shape.index("capacity") + (slice(num_tokens),)
            values[target][first] = values[source][first]

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """All tensors, whole."""
        return [values for _, values in self._tensors]


def capacity(manifest: Manifest) -> int:
    """Tokens that a slot has room for: the longest sequence and the padding of one wide step."""
    return manifest.max_model_len + manifest.max_query_len


def state_shapes(manifest: Manifest) -> list[tuple[int, ...]]:
    """The shape of one slot of every state tensor."""
    return [_shape(tensor, capacity(manifest)) for tensor in manifest.state]


def slot_bytes(manifest: Manifest) -> int:
    """Memory of one slot."""
    shapes = zip(manifest.state, state_shapes(manifest), strict=True)
    return sum(math.prod(shape) * np.dtype(tensor.dtype).itemsize for tensor, shape in shapes)


def _shape(tensor: StateTensor, capacity: int) -> tuple[int, ...]:
    return tuple(capacity if axis == "capacity" else axis for axis in tensor.shape)
