"""Scaling of rotary positions, as GGUF files and config.json say it.

Llama 3's scaling is stored as the factors that it amounts to, one for each pair, so its settings
are found from them and proven by computing the factors again.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from everloop.errors import ArtifactError
from training.gguf.file import GgufFile

ROPE_KEYS = ("rope.freq_base", "rope.scaling.type", "rope.scaling.factor")
FACTORS_TENSOR = "rope_freqs.weight"
_DEFAULT_THETA = 10_000.0
# The settings that every published Llama 3 has; length and factor are what differs.
_LOW, _HIGH = 1.0, 4.0
_TOLERANCE = 1e-4  # relative: factors are stored as float32


def read_rope(
    file: GgufFile, prefix: str, values: Mapping[str, Any], head_dim: int
) -> dict[str, Any]:
    """The `rope_parameters` of config.json.

    Args:
        file: its factors are read, where it has any.
        prefix: of the architecture's keys, for messages.
        values: the architecture's keys without the prefix.
        head_dim: width of a head.

    Raises:
        ArtifactError: the scaling is not supported.
    """
    parameters = {"rope_theta": values.get("rope.freq_base", _DEFAULT_THETA)}
    kind = values.get("rope.scaling.type", "none")
    if FACTORS_TENSOR in file.tensors:
        if kind != "none":
            raise ArtifactError(
                f"{file.path}: {prefix}rope.scaling.type {kind} beside {FACTORS_TENSOR} cannot be "
                "imported."
            )
        return parameters | _llama3(file, parameters["rope_theta"], head_dim)
    if kind == "none":
        return parameters | {"rope_type": "default"}
    if kind != "linear":
        raise ArtifactError(
            f"{file.path}: {prefix}rope.scaling.type {kind} cannot be imported; supported: none, "
            "linear, and Llama 3's factors."
        )
    return parameters | {"rope_type": "linear", "factor": values.get("rope.scaling.factor", 1.0)}


def write_rope(
    place: str, parameters: Mapping[str, Any], head_dim: int
) -> tuple[dict[str, Any], np.ndarray | None]:
    """The keys for some `rope_parameters`, and the factors of each pair where it has any.

    Raises:
        ArtifactError: GGUF has no place for the scaling, or llama.cpp computes it differently.
    """
    keys: dict[str, Any] = {"rope.freq_base": float(parameters["rope_theta"])}
    kind = parameters.get("rope_type", "default")
    if kind == "default":
        return keys, None
    if kind == "linear":
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(parameters["factor"])}
        return keys, None
    if kind != "llama3":
        raise ArtifactError(
            f"{place}: rope_type {kind} cannot be written as GGUF; supported: default, linear, "
            "llama3."
        )
    return keys, _factors(parameters, head_dim).astype(np.float32)


def _factors(parameters: Mapping[str, Any], head_dim: int) -> np.ndarray:
    """What each pair's frequency is divided by.

    Source: Llama 3.1's scaling, `_compute_llama3_parameters` of transformers.
    """
    lengths = _wave_lengths(parameters["rope_theta"], head_dim)
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    share = (parameters["original_max_position_embeddings"] / lengths - low) / (high - low)
    share = np.clip(share, 0.0, 1.0)
    return 1.0 / ((1.0 - share) / parameters["factor"] + share)


def _wave_lengths(theta: float, head_dim: int) -> np.ndarray:
    """Positions of one turn, for each pair."""
    return 2 * np.pi * theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)


def _llama3(file: GgufFile, theta: float, head_dim: int) -> dict[str, Any]:
    stored = file.values(FACTORS_TENSOR).astype(np.float64)
    factor = float(stored.max())
    lengths = _wave_lengths(theta, head_dim)
    between = np.flatnonzero((stored > 1 + _TOLERANCE) & (stored < factor * (1 - _TOLERANCE)))
    if len(stored) == len(lengths) and len(between):
        pair = between[0]
        share = (1 / stored[pair] - 1 / factor) / (1 - 1 / factor)
        parameters = {
            "rope_type": "llama3",
            "rope_theta": theta,
            "factor": float(str(np.float32(factor))),
            "low_freq_factor": _LOW,
            "high_freq_factor": _HIGH,
            "original_max_position_embeddings": round(
                float(lengths[pair] * (share * (_HIGH - _LOW) + _LOW))
            ),
        }
        if np.allclose(_factors(parameters, head_dim), stored, rtol=_TOLERANCE):
            return parameters
    raise ArtifactError(
        f"{file.path}: the rotary factors of {FACTORS_TENSOR} are not those of Llama 3's scaling "
        "and cannot be imported."
    )
