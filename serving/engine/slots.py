"""How many sequences a version serves at once, and how long: by what the machine has free.

A slot is reserved for each sequence at the greatest length, which for a model of ordinary size is
hundreds of MiB. Settings that are given are kept; what is left open is chosen here.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from everloop.errors import ConfigError
from everloop.manifest import Manifest
from serving.engine.config import EngineConfig
from serving.engine.memory import free_bytes, needed_memory

# Of the memory that is free beside the weights. The rest is for the training worker, other
# programs, and the next version while it is swapped in.
_SHARE = 0.25
# Fewer sequences at full length, then shorter ones, then fewer still.
_SLOTS = (32, 24, 16, 12, 8, 6, 4)
_LAST_SLOTS = (2, 1)
_SHORT, _SHORTEST = 2048, 512

logger = logging.getLogger(__name__)


def choose_slots(
    folder: Path, manifest: Manifest, config: EngineConfig, loaded_bytes: int = 0
) -> tuple[Manifest, EngineConfig]:
    """Settle the number of slots and their length.

    Args:
        folder: of the version.
        manifest: of the version.
        config: with engine.max_num_seqs, its value is kept, and so is the version's whole length.
        loaded_bytes: need of the versions that stay loaded beside it, as during a swap.

    Returns:
        The manifest with the length that is served, and the settings with the number of slots: the
        least that there is where nothing fits, to be refused with its numbers.

    Raises:
        ConfigError: engine.max_model_len is more than the version takes.
    """
    if config.max_model_len is not None:
        if config.max_model_len > manifest.max_model_len:
            raise ConfigError(
                f"engine.max_model_len = {config.max_model_len:,} is more than {manifest.tag} "
                f"takes: {manifest.max_model_len:,} tokens. Lower it."
            )
        manifest = _shortened(manifest, config.max_model_len)
    if "max_num_seqs" in config.model_fields_set:
        return manifest, config
    free = free_bytes(config, loaded_bytes)
    served, settled = manifest, config
    for slots, length in _choices(manifest, config):
        served = _shortened(manifest, length)
        settled = config.model_copy(update={"max_num_seqs": slots})
        need = replace(needed_memory(folder, served, settled), wide=0)
        beside = free + loaded_bytes - need.weights
        if need.total <= free and need.cache + need.attention <= _SHARE * beside:
            break
    logger.info(
        "slots chosen by free memory version=%s slots=%d max_model_len=%d of=%d free_mib=%.0f",
        manifest.tag,
        settled.max_num_seqs,
        served.max_model_len,
        manifest.max_model_len,
        free / 2**20,
    )
    return served, settled


def _choices(manifest: Manifest, config: EngineConfig) -> Iterator[tuple[int, int]]:
    """Slots and their length, the best first."""
    length = manifest.max_model_len
    yield from ((count, length) for count in _SLOTS)
    is_fixed = config.max_model_len is not None or not manifest.cache_bytes_per_token
    while not is_fixed and length > _SHORT:
        length = max(length // 2, _SHORT)
        yield _SLOTS[-1], length
    yield from ((count, length) for count in _LAST_SLOTS)
    while not is_fixed and length > _SHORTEST:
        length = max(length // 2, _SHORTEST)
        yield 1, length


def _shortened(manifest: Manifest, length: int) -> Manifest:
    width = min(manifest.max_query_len, length)
    return manifest.model_copy(update={"max_model_len": length, "max_query_len": width})
