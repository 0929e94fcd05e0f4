"""State tensors of slots: their shapes, a fresh start, and copies of a prefix."""

from pathlib import Path

import numpy as np
import pytest

from everloop.manifest import Manifest, StateTensor, read_manifest
from serving.engine.slot_state import SlotState, capacity, slot_bytes, state_shapes


def _tensor(name: str, *shape: int | str, kind: str = "kv", dtype: str = "float32") -> StateTensor:
    return StateTensor(input=name, output=f"new.{name}", kind=kind, shape=shape, dtype=dtype)


@pytest.fixture
def manifest(tiny_version: Path) -> Manifest:
    """Of a version with a cache in int8 and a recurrent state."""
    state = (
        _tensor("key", 2, "capacity", 32, dtype="int8"),
        _tensor("hidden", 6, kind="recurrent"),
    )
    return read_manifest(tiny_version).model_copy(update={"state": state})


def test_state_shapes_leave_room_for_the_padding_of_a_wide_step(tiny_version: Path) -> None:
    manifest = read_manifest(tiny_version)
    assert capacity(manifest) == 128 + 32
    assert state_shapes(manifest) == [(2, 160, 32)] * 4
    assert slot_bytes(manifest) == 4 * 2 * 160 * 32 * 4


def test_slot_bytes_follow_dtype_and_kind(manifest: Manifest) -> None:
    assert slot_bytes(manifest) == 2 * 160 * 32 * 1 + 6 * 4


def test_reset_clears_recurrent_state_of_one_slot_only(manifest: Manifest) -> None:
    state = SlotState(manifest, 3)
    for array in state.arrays:
        array.fill(7)
    state.reset(1)
    cache, hidden = state.arrays
    assert (cache == 7).all()
    assert hidden[:, 0].tolist() == [7, 0, 7]


def test_capacity_binds_only_what_grows(manifest: Manifest) -> None:
    assert (SlotState(manifest, 1).capacity, SlotState(manifest, 1).is_recurrent) == (160, True)
    recurrent = manifest.model_copy(update={"state": manifest.state[1:]})
    assert SlotState(recurrent, 1).capacity is None


def test_copy_prefix_copies_the_first_tokens_and_nothing_else(manifest: Manifest) -> None:
    state = SlotState(manifest.model_copy(update={"state": manifest.state[:1]}), 3)
    [cache] = state.arrays
    cache[2] = 5
    state.copy_prefix(2, 0, 40)
    assert (cache[0, :, :40] == 5).all()
    assert (cache[0, :, 40:] == 0).all()
    assert (cache[1] == 0).all()


def test_view_starts_at_its_first_slot(manifest: Manifest) -> None:
    state = SlotState(manifest, 4)
    key, hidden = state.view(2, 2)
    assert (key.shape, key.dtype) == ((2, 2, 160, 32), np.int8)
    assert (hidden.input, hidden.output, hidden.shape) == ("hidden", "new.hidden", (2, 6))
    assert hidden.address == state.arrays[1][2].ctypes.data
