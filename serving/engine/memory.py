"""Memory that a model version takes: known before it is loaded, so that one that cannot fit is
refused with the numbers instead of being killed by the system later.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from everloop.errors import ConfigError
from everloop.manifest import Manifest
from serving.engine.config import EngineConfig
from serving.engine.scheduler import MAX_CELLS
from serving.engine.slot_state import capacity, slot_bytes

_MIB = 1 << 20
# What ONNX Runtime 1.32 holds beside the file, measured on a model of 135 M parameters: packed
# copies and block sums of the matrices, a second table for the embedding, its own structures.
# Estimated 654, 223 and 146 MiB for fp32, int8 and int4; resident were 634, 221 and 143.
_PACKED_SHARE = {"fp32": 1.0, "int8": 1.11, "int4": 1.22}
_BYTES_PER_WEIGHT = {"fp32": 4.0, "int8": 1.125, "int4": 0.625}
_RUNTIME_BYTES = 32 * _MIB

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one loaded version.

    Attributes:
        weights: resident once the session is open.
        cache: reserved for the state of all slots; resident as far as it was written, and nearly
            all of it where the system gives numpy pages of 2 MiB: a few tokens fill a page.
        attention: for the scores of the widest step; likewise.
        wide: the weights again in fp32, for wide steps; 0 without them.
    """

    weights: int
    cache: int
    attention: int
    wide: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.attention + self.wide


def needed_memory(folder: Path, manifest: Manifest, config: EngineConfig) -> Memory:
    """Estimate what a version will take with wide steps, from its files and its manifest."""
    files = sum((folder / name).stat().st_size for name in manifest.files if "onnx" in name)
    table = (
        manifest.vocab_size * manifest.hidden_size * _BYTES_PER_WEIGHT[manifest.weight_precision]
    )
    has_wide = config.wide_steps == "auto" and manifest.has_wide_graph
    # The second session looks tokens up in the quantized table, of which it holds two.
    wide = manifest.parameters * _BYTES_PER_WEIGHT["fp32"] + 2 * table + _RUNTIME_BYTES
    return Memory(
        weights=int(files * _PACKED_SHARE[manifest.weight_precision] + table + _RUNTIME_BYTES),
        cache=slot_bytes(manifest) * config.max_num_seqs,
        attention=_score_bytes(manifest, config),
        wide=int(wide) if has_wide else 0,
    )


def _score_bytes(manifest: Manifest, config: EngineConfig) -> int:
    """One float32 score for every cell of a step, query head and token that a slot has room for."""
    heads = manifest.num_attention_heads or 0
    width = min(config.max_num_batched_tokens, manifest.max_query_len)
    cells = max(width, min(MAX_CELLS, config.max_num_seqs * width))
    return 4 * cells * heads * capacity(manifest)


def check_memory(
    folder: Path, manifest: Manifest, config: EngineConfig, loaded_bytes: int = 0
) -> Memory:
    """Log what a version needs, and refuse one that does not fit.

    Wide steps are no reason to refuse: where they do not fit, the version goes without.

    Args:
        folder: of the version.
        manifest: of the version.
        config: number of slots, and the limit if there is one.
        loaded_bytes: need of the versions that stay loaded beside it, as during a swap.

    Returns:
        What it may take.

    Raises:
        ConfigError: with all sizes and the limit.
    """
    need = needed_memory(folder, manifest, config)
    free = free_bytes(config, loaded_bytes)
    logger.info(
        "memory needed version=%s weights_mib=%.0f cache_mib=%.0f attention_mib=%.0f wide_mib=%.0f "
        "cache=%s slots=%d tokens_per_slot=%d bytes_per_token=%d free_mib=%.0f",
        manifest.tag,
        need.weights / _MIB,
        need.cache / _MIB,
        need.attention / _MIB,
        need.wide / _MIB,
        manifest.cache_precision,
        config.max_num_seqs,
        capacity(manifest),
        manifest.cache_bytes_per_token,
        free / _MIB,
    )
    if need.wide and need.total > free:
        logger.info("wide steps off version=%s reason=memory", manifest.tag)
        need = replace(need, wide=0)
    if need.total > free:
        raise ConfigError(_refusal(manifest, config, need, free, loaded_bytes))
    return need


def free_bytes(config: EngineConfig, loaded_bytes: int) -> int:
    """What a further version may take."""
    if config.max_memory_bytes is not None:
        return config.max_memory_bytes - loaded_bytes
    # Reserved by loaded versions and not written yet: the system still counts it as available.
    promised = max(0, loaded_bytes - int(psutil.Process().memory_info().rss))
    return int(psutil.virtual_memory().available) - promised


def _refusal(
    manifest: Manifest, config: EngineConfig, need: Memory, free: int, loaded_bytes: int
) -> str:
    beside = f" beside {loaded_bytes / _MIB:,.0f} MiB of loaded versions" if loaded_bytes else ""
    slots = config.max_num_seqs
    sequences = "1 sequence" if slots == 1 else f"{slots} sequences"
    slot = need.cache // slots
    fitting = max(0, free - need.weights - need.attention) // slot if slot else 0
    remedy = (
        f"Set engine.max_num_seqs to {fitting} or less, or" if fitting else "Free memory, or set"
    )
    smaller = "a smaller engine.max_model_len"
    if manifest.cache_precision == "fp32" and manifest.cache_bytes_per_token:
        smaller += ", or export with export.cache int8"
    return (
        f"model version {manifest.tag} needs {need.weights / _MIB:,.0f} MiB for weights, "
        f"{need.attention / _MIB:,.0f} MiB for attention and {need.cache / _MIB:,.0f} MiB for the "
        f"cache ({sequences} of {capacity(manifest):,} tokens, "
        f"{manifest.cache_bytes_per_token:,} bytes each), {max(free, 0) / _MIB:,.0f} MiB are "
        f"free{beside}. {remedy} {smaller}."
    )
