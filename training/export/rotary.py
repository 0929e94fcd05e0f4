"""Tables of rotary positions: cosines and sines by position, whatever the scaling of the model.

Two scalings change their frequencies when a text outgrows the length of the original training
(longrope) or the model's own (dynamic). Up to there they have a table, so they bound the length.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from everloop.errors import ArtifactError

_SCALED = ("linear", "llama3", "yarn", "dynamic", "longrope")


@dataclass(frozen=True, slots=True)
class Rotary:
    """How heads turn with the position.

    Attributes:
        inverse_frequencies: radians per position, one for each rotated pair.
        scale: on cosines and sines.
        max_positions: beyond which the frequencies would be others; None = nowhere.
    """

    inverse_frequencies: tuple[float, ...]
    scale: float
    max_positions: int | None = None

    def table(self, positions: int, pairs: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and sines of positions 0 to `positions` - 1, each [positions, pairs].

        Pairs that the model does not have stand still.
        """
        still = (0.0,) * (pairs - len(self.inverse_frequencies))
        frequencies = torch.tensor(self.inverse_frequencies + still, dtype=torch.float32)
        angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies)
        return (angles.cos() * self.scale).numpy(), (angles.sin() * self.scale).numpy()


def read_rotaries(
    path: Path, config: PreTrainedConfig, head_dim: int, *, allows_part: bool = False
) -> dict[str, Rotary]:
    """Read the rotary settings of a config by the kind of layer that they are for.

    A model with one table for all layers gives it under the empty name; one without rotary
    positions gives nothing.

    Args:
        path: of config.json, for messages.
        config: of the checkpoint.
        head_dim: width of a head.
        allows_part: whether the family can rotate a part of the head.

    Raises:
        ArtifactError: a scaling is unknown, or heads are rotated in part.
    """
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        return {}
    each = {"": parameters} if "rope_theta" in parameters else parameters
    for of_kind in each.values():
        share = of_kind.get("partial_rotary_factor", 1.0)
        if share != 1 and not allows_part:
            raise ArtifactError(f"{path}: partial_rotary_factor {share} cannot be exported.")
    if "rope_theta" in parameters:
        return {"": _rotary(path, config, parameters, head_dim, None)}
    return {
        kind: _rotary(path, config, of_kind, head_dim, kind) for kind, of_kind in parameters.items()
    }


def _rotary(
    path: Path,
    config: PreTrainedConfig,
    parameters: Mapping[str, Any],
    head_dim: int,
    layer_type: str | None,
) -> Rotary:
    rope_type = parameters.get("rope_type", "default")
    if rope_type == "default":
        width = int(head_dim * parameters.get("partial_rotary_factor", 1.0))
        exponents = torch.arange(0, width, 2, dtype=torch.float32) / width
        frequencies = 1.0 / parameters["rope_theta"] ** exponents
        return Rotary(tuple(frequencies.tolist()), 1.0)
    if rope_type not in _SCALED:
        raise ArtifactError(
            f"{path}: rope_type {rope_type} cannot be exported; supported: default, "
            f"{', '.join(_SCALED)}."
        )
    compute = ROPE_INIT_FUNCTIONS[rope_type]
    frequencies, scale = compute(config, torch.device("cpu"), layer_type=layer_type)
    bounds = {
        "dynamic": config.max_position_embeddings,
        "longrope": parameters.get("original_max_position_embeddings"),
    }
    return Rotary(tuple(frequencies.tolist()), float(scale), bounds.get(rope_type))
