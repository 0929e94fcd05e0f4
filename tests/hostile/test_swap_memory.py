"""Swapping again and again keeps no memory, by what the system counts for a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_model import make_tiny_version

NUM_SWAPS = 20

# After each swap: wait until the version before is gone, then for what the loader does about it.
SCRIPT = """
import asyncio, sys, weakref
from pathlib import Path
import psutil
from serving.engine.async_engine import AsyncEngine
from serving.engine.config import EngineConfig
from serving.engine.sampling_params import SamplingParams

async def main():
    engine = AsyncEngine(EngineConfig(num_threads=1, max_num_seqs=4))
    await engine.start()
    for number in range(int(sys.argv[2])):
        old = weakref.ref(engine.current) if engine.current else lambda: None
        await engine.swap(Path(sys.argv[1]), grace_seconds=5)
        params = SamplingParams(max_tokens=2, ignore_eos=True)
        async for _ in engine.generate([5, 6, 7], params, "a"):
            pass
        while old() is not None:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.get_running_loop().run_in_executor(engine._loader._thread, int)
        print(psutil.Process().memory_info().rss, flush=True)
    await engine.stop(1)

asyncio.run(main())
"""


@pytest.mark.slow
def test_memory_after_twenty_swaps_is_that_after_two(tmp_path: Path) -> None:
    version = make_tiny_version(
        tmp_path,
        max_model_len=256,
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=1024,
    )
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(version), str(NUM_SWAPS)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    sizes = [int(line) for line in done.stdout.split()]
    assert len(sizes) == NUM_SWAPS
    # What is kept is there after each of the last; a load's own memory comes and goes between them.
    assert min(sizes[-5:]) <= 1.1 * sizes[1], [size >> 20 for size in sizes]
