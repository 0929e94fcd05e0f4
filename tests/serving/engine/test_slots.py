"""Slots are chosen by what is free; settings that are given are kept or refused."""

import asyncio
from pathlib import Path

import pytest

from everloop.errors import ConfigError
from everloop.manifest import Manifest, read_manifest
from serving.engine.async_engine import AsyncEngine
from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine
from serving.engine.memory import needed_memory
from serving.engine.slots import choose_slots

GIB = 1 << 30


@pytest.fixture
def manifest(tiny_version: Path) -> Manifest:
    """The cache of SmolLM2-135M in fp32, 4,096 tokens: 191 MiB a slot."""
    found = read_manifest(tiny_version)
    shape = (3, "capacity", 64)
    state = tuple(
        found.state[0].model_copy(update={"input": str(n), "output": str(n), "shape": shape})
        for n in range(60)
    )
    heads = {"num_attention_heads": 9, "max_model_len": 4096, "max_query_len": 256}
    return found.model_copy(update={"state": state, **heads})


def chosen(
    folder: Path, manifest: Manifest, free: int, loaded: int = 0, **given: object
) -> tuple[int, int]:
    config = EngineConfig.model_validate({"max_memory_bytes": free, **given})
    served, settled = choose_slots(folder, manifest, config, loaded)
    return settled.max_num_seqs, served.max_model_len


@pytest.mark.parametrize(
    ("free", "slots", "length"),
    [
        (64 * GIB, 32, 4096),
        (20 * GIB, 24, 4096),
        (8 * GIB, 8, 4096),
        (4 * GIB, 4, 4096),
        (2 * GIB, 4, 2048),
        (GIB, 2, 2048),
        (GIB // 2, 1, 1024),
    ],
)
def test_the_slots_are_as_many_and_as_long_as_memory_allows(
    tiny_version: Path, manifest: Manifest, free: int, slots: int, length: int
) -> None:
    assert chosen(tiny_version, manifest, free) == (slots, length)


def test_slots_take_at_most_a_quarter_of_what_is_free(
    tiny_version: Path, manifest: Manifest
) -> None:
    for free in range(2 * GIB, 40 * GIB, GIB // 2):
        slots, length = chosen(tiny_version, manifest, free)
        config = EngineConfig(max_num_seqs=slots)
        served = manifest.model_copy(update={"max_model_len": length})
        need = needed_memory(tiny_version, served, config)
        assert need.cache + need.attention <= free / 4


def test_a_swap_gives_the_next_version_the_same_slots(
    tiny_version: Path, manifest: Manifest
) -> None:
    # As max_memory_bytes counts loaded versions too, it stays the same.
    assert chosen(tiny_version, manifest, 20 * GIB, loaded=5 * GIB) == (24, 4096)


@pytest.mark.parametrize("free", [64 * GIB, GIB])
def test_slots_that_are_given_are_kept(tiny_version: Path, manifest: Manifest, free: int) -> None:
    assert chosen(tiny_version, manifest, free, max_num_seqs=24) == (24, 4096)
    assert chosen(tiny_version, manifest, free, max_num_seqs=32, max_model_len=1024) == (32, 1024)


def test_a_length_that_is_given_is_kept(tiny_version: Path, manifest: Manifest) -> None:
    assert chosen(tiny_version, manifest, 4 * GIB, max_model_len=1024) == (16, 1024)
    with pytest.raises(ConfigError, match=r"engine\.max_model_len = 8,192 is more than .* 4,096"):
        chosen(tiny_version, manifest, 8 * GIB, max_model_len=8192)


def test_what_was_chosen_is_logged(
    tiny_version: Path, manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "serving.engine.slots"):
        chosen(tiny_version, manifest, 2 * GIB)
    assert "slots=4 max_model_len=2048 of=4096 free_mib=2048" in caplog.text


def test_a_loaded_version_serves_the_length_that_was_given(tiny_version: Path) -> None:
    async def main() -> tuple[int, int]:
        engine = AsyncEngine(EngineConfig(max_memory_bytes=GIB, max_model_len=80, num_threads=1))
        await engine.start()
        await engine.swap(tiny_version, grace_seconds=1)
        current = engine.current
        await engine.stop(drain_seconds=1)
        assert isinstance(current, LLMEngine)
        return current.manifest.max_model_len, current.config.max_num_seqs

    assert asyncio.run(main()) == (80, 32)
