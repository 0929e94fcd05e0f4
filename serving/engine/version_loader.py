"""Loads model versions beside an event loop, and gives the memory of those that are gone back."""

import asyncio
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from everloop.freed_memory import give_freed_memory_back
from serving.engine.llm_engine import LLMEngine


class VersionLoader:
    """One thread for one load after the other, apart from those that requests use.

    What one thread loads is in one part of the heap, however many versions follow one another. The
    C library keeps what is freed there, so it is told to give it back after every load, successful
    or not, and when a version is gone, whoever was the last to hold it.

    Args:
        load: LLMEngine.load with the settings of all versions.
    """

    def __init__(self, load: Callable[..., LLMEngine]) -> None:
        self._load = load
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model-loader")
        self._is_closed = False

    async def load(self, folder: Path, loaded_bytes: int) -> LLMEngine:
        """Load a version; raises what LLMEngine.load does."""
        loop = asyncio.get_running_loop()
        engine = await loop.run_in_executor(
            self._thread, self._load_in_thread, folder, loaded_bytes
        )
        weakref.finalize(engine, self._note_freed, loop).atexit = False
        return engine

    def close(self) -> None:
        """Take no more loads."""
        self._is_closed = True
        self._thread.shutdown(wait=False)

    def _load_in_thread(self, folder: Path, loaded_bytes: int) -> LLMEngine:
        try:
            return self._load(folder, loaded_bytes=loaded_bytes)
        finally:
            give_freed_memory_back()

    def _note_freed(self, loop: asyncio.AbstractEventLoop) -> None:
        # By way of the loop: the version's parts are freed after this was called.
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._give_back)

    def _give_back(self) -> None:
        if not self._is_closed:
            self._thread.submit(give_freed_memory_back)
