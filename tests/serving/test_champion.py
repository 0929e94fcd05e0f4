"""The follower with the real engine, store and model store."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from everloop.errors import StoreError
from everloop.manifest import FILE_NAME, read_manifest
from everloop.registry import Registry
from everloop.settings import Home
from feedback.store.store import Store, open_store
from serving.champion import ChampionFollower
from serving.engine.async_engine import AsyncEngine
from serving.engine.config import EngineConfig
from serving.openai_api.config import ServerConfig
from tests.serving.fakes import ObserverLog

ENGINE = EngineConfig(
    num_threads=1, max_num_seqs=2, max_num_batched_tokens=64, max_memory_bytes=2**30
)


@dataclass
class Scene:
    store: Store
    registry: Registry
    observer: ObserverLog
    engine: AsyncEngine
    follower: ChampionFollower
    served_names: set[str]

    @property
    def answering(self) -> str | None:
        return self.engine.current.manifest.tag if self.engine.current else None

    def add(self, folder: Path) -> str:
        version = self.registry.save(folder)
        self.store.record_model_version(version)
        return version.tag

    @property
    def statuses(self) -> list[str]:
        return [deployment.status for deployment in self.store.deployments()]


@contextlib.asynccontextmanager
async def scene(home: Home) -> AsyncIterator[Scene]:
    store, registry, observer = open_store(home.database_url), Registry(home), ObserverLog()
    engine = AsyncEngine(ENGINE)
    await engine.start()
    names: set[str] = set()
    config = ServerConfig(poll_seconds=0.01, swap_grace_seconds=5)
    follower = ChampionFollower(engine, store, registry, observer, config, names)
    try:
        yield Scene(store, registry, observer, engine, follower, names)
    finally:
        await engine.stop(1)
        store.close()


def test_empty_home_waits(home):
    async def run() -> None:
        async with scene(home) as s:
            await s.follower.follow_once()
            assert s.answering is None
            assert s.statuses == []

    asyncio.run(run())


def test_first_version_of_a_home_becomes_its_champion(home, versions):
    async def run() -> None:
        async with scene(home) as s:
            s.registry.save(versions[0])
            newest = s.registry.save(versions[1]).tag
            await s.follower.follow_once()
            assert s.answering == newest
            champion = s.store.champion()
            assert (champion.model_version, champion.status) == (newest, "live")
            assert (s.observer.swaps, s.observer.models) == (["ok"], [newest])
            assert s.observer.batch_invariant == [s.engine.current.batch_invariant]

    asyncio.run(run())


def test_new_deployment_is_swapped_in_and_marked_live(home, versions):
    async def run() -> None:
        async with scene(home) as s:
            first, second = (s.add(folder) for folder in versions)
            s.store.deploy(first, "promote", "first")
            await s.follower.follow_once()
            s.store.deploy(second, "promote", "better")
            await s.follower.follow_once()
            assert s.answering == second
            assert s.statuses == ["live", "live"]
            s.store.deploy(first, "rollback", "worse")
            await s.follower.follow_once()
            assert s.answering == first

    asyncio.run(run())


def renamed(folder: Path, name: str, target: Path) -> Path:
    shutil.copytree(folder, target)
    manifest = read_manifest(folder).model_copy(update={"name": name})
    (target / FILE_NAME).write_text(manifest.model_dump_json(), encoding="utf-8")
    return target


def test_names_of_earlier_champions_are_kept(home, versions, tmp_path):
    other = renamed(versions[1], "smollm2", tmp_path / "other")

    async def run(*deployed: str) -> set[str]:
        async with scene(home) as s:
            for tag in deployed:
                s.store.deploy(tag, "promote", "better")
                await s.follower.follow_once()
            await s.follower.follow_once()
            return s.served_names

    async def add() -> tuple[str, str]:
        async with scene(home) as s:
            return s.add(other), s.add(versions[0])

    imported, trained = asyncio.run(add())
    assert asyncio.run(run(imported)) == set()  # the champion has its own name anyway
    assert asyncio.run(run(trained)) == {"smollm2"}
    # After a restart too.
    assert asyncio.run(run()) == {"smollm2", "everloop"}


def test_champion_of_the_store_wins_over_a_newer_version(home, versions):
    async def run() -> None:
        async with scene(home) as s:
            first, _ = (s.add(folder) for folder in versions)
            s.store.deploy(first, "promote", "first")
            await s.follower.follow_once()
            assert s.answering == first

    asyncio.run(run())


def test_damaged_version_is_marked_failed_and_the_old_one_goes_on(home, versions):
    async def run() -> None:
        async with scene(home) as s:
            first, second = (s.add(folder) for folder in versions)
            s.store.deploy(first, "promote", "first")
            await s.follower.follow_once()
            weights = s.registry.get(second).path / "model.onnx.data"
            weights.chmod(0o644)
            weights.write_bytes(b"changed" + weights.read_bytes()[7:])
            s.store.deploy(second, "promote", "better")
            await s.follower.follow_once()
            assert s.answering == first
            failed, live = s.store.deployments()
            assert (failed.status, live.status) == ("failed", "live")
            assert "model.onnx.data" in failed.detail
            await s.follower.follow_once()
            assert s.observer.swaps == ["ok", "failed"]

    asyncio.run(run())


def test_first_version_that_cannot_be_loaded_is_tried_once(home, versions):
    async def run() -> None:
        async with scene(home) as s:
            weights = s.registry.save(versions[0]).path / "model.onnx.data"
            weights.chmod(0o644)
            weights.write_bytes(b"changed" + weights.read_bytes()[7:])
            for _ in range(3):
                await s.follower.follow_once()
            assert s.answering is None
            assert (s.statuses, s.observer.swaps) == (["failed"], ["failed"])
            newer = s.registry.save(versions[1]).tag
            await s.follower.follow_once()
            assert s.answering == newer

    asyncio.run(run())


def test_version_without_files_is_marked_failed(home, versions):
    async def run() -> None:
        async with scene(home) as s:
            tag = s.add(versions[0])
            s.store.deploy(tag, "promote", "first")
            s.registry.delete(tag)
            await s.follower.follow_once()
            assert s.answering is None
            assert s.statuses == ["failed"]

    asyncio.run(run())


def test_deployment_is_live_while_the_old_version_still_drains(home, versions):
    async def run() -> None:
        async with scene(home) as s:
            first, second = (s.add(folder) for folder in versions)
            s.store.deploy(first, "promote", "first")
            await s.follower.follow_once()
            from serving.engine.sampling_params import SamplingParams

            answer = s.engine.generate([5], SamplingParams(max_tokens=400, ignore_eos=True), "long")
            s.store.deploy(second, "promote", "better")
            await s.follower.follow_once()
            assert s.answering == second
            assert s.statuses == ["live", "live"]
            await answer.aclose()

    asyncio.run(run())


def test_run_survives_a_store_that_is_away(home, versions, caplog):
    async def run() -> None:
        async with scene(home) as s:
            s.add(versions[0])
            find, failures = s.store.champion, [StoreError("away"), StoreError("away")]

            def champion():
                if failures:
                    raise failures.pop()
                return find()

            s.store.champion = champion
            task = asyncio.create_task(s.follower.run())
            while s.answering is None:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert [r.message for r in caplog.records if "cannot be read" in r.message] == [
        "deployments cannot be read: away"
    ]


@pytest.mark.parametrize("index", [0, 1])
def test_versions_of_this_file_differ(versions, index):
    assert read_manifest(versions[index]).tag != read_manifest(versions[1 - index]).tag
