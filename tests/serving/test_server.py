"""The server's process, beside what tests/hostile/test_processes.py does to a running one."""

import asyncio

from serving.openai_api.config import ServerConfig
from serving.openai_api.state import ApiState
from serving.server import engine_death
from tests.serving.fakes import MemoryRecorder, ObserverLog, ScriptedEngine


def test_process_ends_when_its_engine_has_died_and_not_before() -> None:
    async def run() -> None:
        engine = ScriptedEngine()
        api = ApiState(engine, MemoryRecorder(), ObserverLog(), lambda _: (b"", ""), ServerConfig())
        death = asyncio.create_task(engine_death(api, poll_seconds=0))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not death.done()
        engine.is_dead = True
        await asyncio.wait_for(death, 60)

    asyncio.run(run())
