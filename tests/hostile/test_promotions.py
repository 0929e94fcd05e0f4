"""Versions that are damaged in every way: each is refused for itself, and stops no other one."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from everloop.errors import ArtifactError, NotFoundError
from everloop.manifest import sha256_file
from everloop.registry import Registry
from everloop.settings import Home
from feedback.store.store import Store, open_store
from serving import launch
from serving.champion import ChampionFollower
from serving.engine.async_engine import AsyncEngine
from serving.engine.config import EngineConfig
from serving.openai_api.config import ServerConfig
from tests.serving.fakes import ObserverLog
from tests.tiny_model import make_tiny_version

ENGINE = EngineConfig(
    num_threads=1, max_num_seqs=2, max_num_batched_tokens=64, max_memory_bytes=2**30
)


def write(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def change_manifest(folder: Path, change: Callable[[dict], None]) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    write(path, json.dumps(content).encode())


def wrong_state(folder: Path) -> None:
    def change(content: dict) -> None:
        for tensor in content["state"]:
            tensor["shape"] = [*tensor["shape"], 3]

    change_manifest(folder, change)


def no_state_at_all(folder: Path) -> None:
    change_manifest(folder, lambda content: content.update(state=[]))


def endless_context(folder: Path) -> None:
    change_manifest(folder, lambda content: content.update(max_model_len=10**18))


def with_right_hash(name: str, content: bytes) -> Callable[[Path], None]:
    """A file whose content is wrong from its birth, so that its hash is no help."""

    def damage(folder: Path) -> None:
        write(folder / name, content)
        digest = sha256_file(folder / name)
        change_manifest(folder, lambda manifest: manifest["files"].update({name: digest}))

    damage.__name__ = f"wrong_{name}"
    return damage


def broken(name: str, content: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        write(folder / name, content)

    damage.__name__ = f"broken_{name}_{content[:4].hex()}"
    return damage


UNREADABLE = [
    broken("manifest.json", b"\xff\xfe{"),
    broken("manifest.json", b"{"),
    broken("manifest.json", b"[" * 100_000),
    broken("manifest.json", b""),
    broken("model.yaml", b"\xff\xfe\x00"),
    broken("model.yaml", b"a: [1, 2"),
    broken("model.yaml", b"- 1\n- 2\n"),
    broken("model.yaml", b""),
    broken("model.yaml", b"name: 5\nversion: {}\n"),
]
UNLOADABLE = [
    wrong_state,
    no_state_at_all,
    endless_context,
    with_right_hash("model.onnx", b"\x00\x01nothing"),
    with_right_hash("model.onnx.data", b""),
    with_right_hash("tokenizer.json", b"{}"),
    with_right_hash("golden.json", b"\xff\xfe"),
    with_right_hash("golden.json", b'{"cases": 5}'),
    with_right_hash("chat_template.jinja", b"\xff"),
]


def named(damage: Callable[[Path], None]) -> str:
    return damage.__name__


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("versions")
    return [make_tiny_version(folder / str(seed), seed=seed) for seed in (1, 2, 3)]


def add(registry: Registry, store: Store, folder: Path) -> str:
    version = registry.save(folder)
    store.record_model_version(version)
    return version.tag


async def settle(follower: ChampionFollower, looks: int = 3) -> None:
    for _ in range(looks):
        await follower.follow_once()


class Server:
    """The engine, and the follower that loads what the store promotes."""

    def __init__(self, home: Home, store: Store) -> None:
        self.observer = ObserverLog()
        self.engine = AsyncEngine(ENGINE)
        self.follower = ChampionFollower(
            self.engine,
            store,
            Registry(home),
            self.observer,
            ServerConfig(swap_grace_seconds=5),
            served_names=set(),
        )

    async def __aenter__(self) -> "Server":
        await self.engine.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.engine.stop(1)

    @property
    def answering(self) -> str | None:
        return self.engine.current.manifest.tag if self.engine.current else None


@pytest.mark.parametrize("damage", [*UNREADABLE, *UNLOADABLE], ids=named)
def test_damaged_version_is_marked_and_the_next_promotion_works(home, versions, damage):
    async def run() -> None:
        store, registry = open_store(home.database_url), Registry(home)
        async with Server(home, store) as server:
            good, bad = (add(registry, store, folder) for folder in versions[:2])
            store.deploy(good, "promote", "first")
            await settle(server.follower)
            damage(registry.get(bad).path)
            store.deploy(bad, "promote", "better")
            await settle(server.follower)
            assert server.answering == good
            newest, _ = store.deployments()
            assert (newest.status, bool(newest.detail)) == ("failed", True)
            assert server.observer.swaps == ["ok", "failed"]
            third = add(registry, store, versions[2])
            store.deploy(third, "promote", "better still")
            await settle(server.follower)
            assert server.answering == third
            assert store.deployments()[0].status == "live"
        store.close()

    asyncio.run(run())


@pytest.mark.parametrize("damage", [UNREADABLE[0], UNREADABLE[4], wrong_state], ids=named)
def test_champion_that_is_damaged_at_the_start_falls_back_to_its_predecessor(
    home, versions, damage
):
    async def run() -> None:
        store, registry = open_store(home.database_url), Registry(home)
        good, bad = (add(registry, store, folder) for folder in versions[:2])
        for tag in (good, bad):
            store.mark_deployment(store.deploy(tag, "promote", "test").id, "live")
        damage(registry.get(bad).path)
        launch.check(home, "127.0.0.1", launch.free_port())
        async with Server(home, store) as server:
            await settle(server.follower)
            assert server.answering == good
        assert store.champion().model_version == good
        store.close()

    asyncio.run(run())


def test_home_without_deployments_starts_with_the_newest_version_that_can_be_loaded(home, versions):
    async def run() -> None:
        store, registry = open_store(home.database_url), Registry(home)
        tags = [registry.save(folder).tag for folder in versions]
        wrong_state(registry.get(tags[2]).path)
        write(registry.get(tags[1]).path / "manifest.json", b"\xff")
        async with Server(home, store) as server:
            await settle(server.follower, 4)
            assert server.answering == tags[0]
        assert [row.status for row in store.deployments()] == ["live", "failed"]
        store.close()

    asyncio.run(run())


def test_version_that_was_repaired_can_be_promoted_again(home, versions):
    async def run() -> None:
        store, registry = open_store(home.database_url), Registry(home)
        async with Server(home, store) as server:
            good, bad = (add(registry, store, folder) for folder in versions[:2])
            store.deploy(good, "promote", "first")
            await settle(server.follower)
            path = registry.get(bad).path / "manifest.json"
            content = path.read_bytes()
            write(path, b"\xff")
            store.deploy(bad, "promote", "better")
            await settle(server.follower)
            write(path, content)
            store.deploy(bad, "promote", "repaired")
            await settle(server.follower)
            assert server.answering == bad
        store.close()

    asyncio.run(run())


@pytest.mark.parametrize("damage", UNREADABLE, ids=named)
def test_damaged_version_stops_no_work_on_the_others(home, versions, damage, caplog):
    registry = Registry(home)
    first, bad = (registry.save(folder).tag for folder in versions[:2])
    damage(registry.get(bad).path)
    assert [version.tag for version in registry.list()] == [first]
    assert registry.get("everloop:latest").tag == first
    assert registry.get(first).tag == first
    with pytest.raises((ArtifactError, NotFoundError)):
        registry.get(bad)
    launch.check(home, "127.0.0.1", launch.free_port())
    third = registry.save(versions[2]).tag
    registry.delete(bad)
    assert [version.tag for version in Registry(home).list()] == [first, third]
    warned = [record for record in caplog.records if "is left out" in record.message]
    assert {bad in record.message for record in warned} == {True}


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
def test_version_that_cannot_be_read_for_want_of_rights_is_left_out(home, versions):
    registry = Registry(home)
    tag = registry.save(versions[0]).tag
    (registry.get(tag).path / "manifest.json").chmod(0)
    assert registry.list() == []
