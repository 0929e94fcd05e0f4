"""What a version needs is said and held against what is free before it is loaded."""

import asyncio
from pathlib import Path

import psutil
import pytest

from everloop.errors import ConfigError
from everloop.manifest import Manifest, read_manifest
from serving.engine.async_engine import AsyncEngine
from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine
from serving.engine.memory import Memory, check_memory, needed_memory

MIB = 1 << 20
CACHE = 4 * (4 * 2 * 160 * 32 * 4)  # slots x tensors, heads, capacity, head_dim, bytes
SCORES = (4 * 32) * 4 * 160 * 4  # slots x width, query heads, capacity, bytes


@pytest.fixture
def manifest(tiny_version: Path) -> Manifest:
    return read_manifest(tiny_version)


def limited(free_bytes: int) -> EngineConfig:
    return EngineConfig(max_num_seqs=4, max_memory_bytes=free_bytes)


def as_int8(manifest: Manifest) -> Manifest:
    state = tuple(tensor.model_copy(update={"dtype": "int8"}) for tensor in manifest.state)
    return manifest.model_copy(update={"state": state})


def test_needed_memory_counts_weights_and_cache(tiny_version: Path, manifest: Manifest) -> None:
    files = sum((tiny_version / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))

    need = needed_memory(tiny_version, manifest, limited(1))

    # The file, a second table of 259 tokens x 64 values, and the runtime's own.
    weights = files + 259 * 64 * 4 + 32 * MIB
    assert need == Memory(weights=weights, cache=CACHE, attention=SCORES)


def test_needed_memory_of_an_int8_cache_is_a_quarter(
    tiny_version: Path, manifest: Manifest
) -> None:
    assert needed_memory(tiny_version, as_int8(manifest), limited(1)).cache == CACHE // 4


@pytest.mark.parametrize(("slots", "budget", "cells"), [(4, 8, 32), (1, 32, 32), (200, 200, 2048)])
def test_needed_memory_holds_the_scores_of_the_widest_step(
    tiny_version: Path, manifest: Manifest, slots: int, budget: int, cells: int
) -> None:
    config = EngineConfig(max_num_seqs=slots, max_num_batched_tokens=budget)
    found = needed_memory(tiny_version, manifest, config).attention
    assert found == cells * 4 * 160 * 4  # query heads, capacity, bytes


def test_check_memory_takes_what_just_fits(tiny_version: Path, manifest: Manifest) -> None:
    total = needed_memory(tiny_version, manifest, limited(1)).total

    assert check_memory(tiny_version, manifest, limited(total)).total == total
    with pytest.raises(ConfigError):
        check_memory(tiny_version, manifest, limited(total - 1))


def test_check_memory_prints_the_numbers_before_loading(
    tiny_version: Path, manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "serving.engine.memory"):
        check_memory(tiny_version, as_int8(manifest), limited(100 * MIB))

    (message,) = caplog.messages
    start = f"memory needed version={manifest.tag} weights_mib=32 cache_mib=0 attention_mib=0 "
    assert message.startswith(f"{start}wide_mib=0 ")
    # Two layers of keys and values, two heads of 32 values of one byte.
    assert "cache=int8 slots=4 tokens_per_slot=160 bytes_per_token=256 free_mib=100" in message


def test_check_memory_says_how_many_sequences_would_fit(
    tiny_version: Path, manifest: Manifest
) -> None:
    need = needed_memory(tiny_version, manifest, limited(1))
    config = limited(need.weights + SCORES + CACHE // 2)

    with pytest.raises(
        ConfigError,
        match=r"needs 32 MiB for weights, 0 MiB for attention and 1 MiB for the cache "
        r"\(4 sequences of 160 tokens, 1,024 bytes each\), 33 MiB are free\. "
        r"Set engine\.max_num_seqs to 2 or less, or a smaller engine\.max_model_len, or export "
        r"with export\.cache int8\.",
    ):
        check_memory(tiny_version, manifest, config)


def test_check_memory_without_room_for_a_sequence_names_no_number(
    tiny_version: Path, manifest: Manifest
) -> None:
    with pytest.raises(ConfigError, match=r"2 MiB are free\. Free memory, or set a smaller engine"):
        check_memory(tiny_version, as_int8(manifest), limited(2 * MIB))


def test_check_memory_counts_versions_that_stay_loaded(
    tiny_version: Path, manifest: Manifest
) -> None:
    total = needed_memory(tiny_version, manifest, limited(1)).total
    config = limited(3 * total)

    check_memory(tiny_version, manifest, config, loaded_bytes=2 * total)
    with pytest.raises(ConfigError, match="are free beside 67 MiB of loaded versions"):
        check_memory(tiny_version, manifest, config, loaded_bytes=2 * total + 1)


def test_check_memory_keeps_what_loaded_versions_were_promised(
    tiny_version: Path, manifest: Manifest
) -> None:
    everything = psutil.virtual_memory().total + psutil.Process().memory_info().rss

    with pytest.raises(ConfigError, match="0 MiB are free"):
        check_memory(tiny_version, manifest, EngineConfig(), loaded_bytes=everything)


def test_load_refuses_what_does_not_fit_into_memory(tiny_version: Path) -> None:
    with pytest.raises(ConfigError, match=r"for the cache \(1 sequence of 160"):
        LLMEngine.load(tiny_version, EngineConfig(max_memory_bytes=2_000_000))
    with pytest.raises(ConfigError, match=r"for the cache \(32 sequences"):
        LLMEngine.load(tiny_version, EngineConfig(max_num_seqs=32, max_memory_bytes=2_000_000))


def test_swap_is_refused_when_both_versions_do_not_fit(
    tiny_version: Path, other_tiny_version: Path, manifest: Manifest
) -> None:
    total = needed_memory(tiny_version, manifest, limited(1)).total

    async def main() -> list[str]:
        engine = AsyncEngine(limited(total * 3 // 2))
        await engine.start()
        await engine.swap(tiny_version, grace_seconds=1)
        with pytest.raises(ConfigError, match="beside 33 MiB of loaded versions"):
            await engine.swap(other_tiny_version, grace_seconds=1)
        versions = engine.versions
        await engine.stop(drain_seconds=1)
        return versions

    assert asyncio.run(main()) == [manifest.tag]
