"""The engine's thread beside a real event loop."""

import asyncio
import gc
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everloop.errors import (
    ArtifactError,
    DataError,
    EngineStoppedError,
    PromptTooLongError,
    QueueFullError,
)
from serving.engine import async_engine
from serving.engine.async_engine import AsyncEngine
from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine
from serving.engine.output_stream import OutputStream
from serving.engine.sampling_params import SamplingParams
from serving.engine.sequence import GenerationResult
from tests.serving.engine.conftest import RecordingObserver

GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
LONG = SamplingParams(max_tokens=100, temperature=0.0, ignore_eos=True)
PROMPT = [9, 8, 7, 6, 5]
Scenario = Callable[[AsyncEngine], Coroutine[Any, Any, None]]


@pytest.fixture
def run(
    tiny_version: Path, engine_config: EngineConfig, observer: RecordingObserver
) -> Callable[..., None]:
    """Run a scenario on a started engine, and stop it; no callback on the loop may fail."""

    def run(scenario: Scenario, **settings: int) -> None:
        failures: list[dict[str, Any]] = []

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, seen: failures.append(seen))
            engine = AsyncEngine(engine_config.model_copy(update=settings), observer)
            async with started(engine, tiny_version), asyncio.timeout(60):
                await scenario(engine)

        asyncio.run(main())
        assert failures == []

    return run


@asynccontextmanager
async def started(engine: AsyncEngine, version: Path) -> AsyncIterator[AsyncEngine]:
    await engine.start()
    await engine.swap(version, grace_seconds=5)
    try:
        yield engine
    finally:
        await engine.stop(drain_seconds=5)


async def collect(stream: OutputStream) -> GenerationResult:
    return GenerationResult.join([output async for output in stream])


async def _commands(engine: AsyncEngine, count: int) -> None:
    """Wait until so many commands lie in the inbox of the thread, which stands still."""
    while engine._inbox.qsize() < count:
        await asyncio.sleep(0)


def expected(version: Path, config: EngineConfig, params: SamplingParams) -> GenerationResult:
    return LLMEngine.load(version, config).generate([PROMPT], params)[0]


def test_concurrent_requests_give_what_the_core_gives(
    run: Callable[..., None], tiny_version: Path, engine_config: EngineConfig
) -> None:
    alone = expected(tiny_version, engine_config, GREEDY)

    async def scenario(engine: AsyncEngine) -> None:
        streams = [engine.generate(PROMPT, GREEDY, str(number)) for number in range(9)]
        assert await asyncio.gather(*map(collect, streams)) == [alone] * 9

    run(scenario)


def test_generate_streams_token_by_token_with_times_at_the_end(run: Callable[..., None]) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        outputs = [output async for output in engine.generate(PROMPT, GREEDY, "a")]
        assert [len(output.token_ids) for output in outputs] == [1] * 12
        assert [output.finish_reason for output in outputs] == [None] * 11 + ["length"]
        assert outputs[-1].times is not None

    run(scenario)


@pytest.mark.parametrize("way", ["close", "drop", "cancel"])
def test_reader_that_goes_away_aborts_its_request(
    run: Callable[..., None], observer: RecordingObserver, way: str
) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        observer.gate.clear()
        stream = engine.generate(PROMPT, LONG, "gone")
        await anext(stream)
        if way == "close":
            await stream.aclose()
            assert [output async for output in stream] == []
        elif way == "cancel":
            task = asyncio.create_task(collect(stream))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        del stream
        gc.collect()
        observer.gate.set()
        await engine._versions[0].idle.wait()
        assert [event[0] for event in observer.named("finished")] == ["abort"]

    run(scenario)


def test_closing_a_finished_stream_aborts_nobody(
    run: Callable[..., None], observer: RecordingObserver
) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        stream = engine.generate(PROMPT, GREEDY, "same id")
        await collect(stream)
        again = engine.generate(PROMPT, GREEDY, "same id")
        await stream.aclose()
        assert (await collect(again)).finish_reason == "length"

    run(scenario)


def test_full_queue_refuses_with_a_time_to_come_back(run: Callable[..., None]) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        streams = [engine.generate(PROMPT, LONG, str(number)) for number in range(3)]
        with pytest.raises(
            QueueFullError, match=r"3 requests run or wait, as many as may \(engine.max_queue\)"
        ) as info:
            engine.generate(PROMPT, GREEDY, "one more")
        assert 1 <= info.value.retry_after_seconds <= 60
        await asyncio.gather(*map(collect, streams))
        assert (await collect(engine.generate(PROMPT, GREEDY, "later"))).finish_reason == "length"

    run(scenario, max_num_seqs=1, max_queue=2)


def test_one_tenant_leaves_room_for_others(run: Callable[..., None]) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        def ask(name: str, tenant: str) -> OutputStream:
            return engine.generate(PROMPT, GREEDY, name, tenant=tenant)

        streams = [ask("other", "b"), *(ask(f"a{number}", "a") for number in range(4))]
        with pytest.raises(QueueFullError, match="4 of your requests run or wait, and others ask"):
            ask("one too many", "a")
        streams += [ask("b1", "b"), ask("c1", "c")]
        results = await asyncio.gather(*map(collect, streams))
        assert {result.finish_reason for result in results} == {"length"}
        alone = [ask(f"a{number}", "a") for number in range(8)]
        await asyncio.gather(*map(collect, alone))

    run(scenario, max_num_seqs=2, max_queue=6)


def test_deadline_ends_a_stream_with_timeout(
    run: Callable[..., None], observer: RecordingObserver
) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        stream = engine.generate(PROMPT, LONG, "late", deadline=time.monotonic())
        assert await collect(stream) == GenerationResult("", (), "timeout")

    run(scenario)


def test_embed_gives_what_the_core_gives(run: Callable[..., None]) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        first, second = await asyncio.gather(
            engine.embed(PROMPT, "a", tenant="x"), engine.embed(PROMPT[::-1], "b")
        )
        assert first.shape == (64,)
        assert not np.allclose(first, second)
        np.testing.assert_allclose(await engine.embed(PROMPT, "c"), first, atol=1e-5)

    run(scenario)


def test_embed_that_is_aborted_raises(
    run: Callable[..., None], observer: RecordingObserver
) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        observer.gate.clear()
        stream = engine.generate(PROMPT, LONG, "running")
        await anext(stream)
        embedding = asyncio.create_task(engine.embed(PROMPT, "a"))
        await _commands(engine, 1)
        stopping = asyncio.create_task(engine.stop(drain_seconds=0))
        await _commands(engine, 3)
        observer.gate.set()
        await stopping
        with pytest.raises(EngineStoppedError):
            await embedding

    run(scenario)


def test_embed_without_hidden_states_is_refused(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        assert engine.current is not None
        without = engine.current.manifest.model_copy(update={"has_hidden_states": False})
        monkeypatch.setattr(engine.current._factory, "_manifest", without)
        with pytest.raises(DataError, match="gives no hidden states"):
            await engine.embed(PROMPT, "a")

    run(scenario)


def test_retry_time_follows_the_recent_throughput(engine_config: EngineConfig) -> None:
    engine = AsyncEngine(engine_config)
    assert engine._retry_after_seconds() == 1.0
    engine._finish_times.extend([10.0, 14.0, 22.0])
    assert engine._retry_after_seconds() == 6.0
    engine._finish_times.append(10_000.0)
    assert engine._retry_after_seconds() == 60.0


def test_bad_requests_are_refused_before_they_are_queued(run: Callable[..., None]) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        with pytest.raises(PromptTooLongError):
            engine.generate(PROMPT * 30, GREEDY, "a")
        with pytest.raises(DataError, match="empty"):
            engine.generate([], GREEDY, "a")
        stream = engine.generate(PROMPT, GREEDY, "a")
        with pytest.raises(DataError, match="still in use"):
            engine.generate(PROMPT, GREEDY, "a")
        await collect(stream)

    run(scenario)


def test_failed_step_raises_in_its_own_streams_and_the_engine_goes_on(
    run: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        runner = engine.current._model_runner  # type: ignore[union-attr]
        session, runner._session = runner._session, None  # every run fails
        with pytest.raises(EngineStoppedError, match="could not finish request a"):
            await collect(engine.generate(PROMPT, GREEDY, "a"))
        assert session is not None
        assert (await collect(engine.generate(PROMPT, GREEDY, "b"))).finish_reason == "length"

    run(scenario)
    assert "step failed" in caplog.text


def test_swap_under_load_answers_every_request_by_exactly_one_version(
    run: Callable[..., None],
    tiny_version: Path,
    other_tiny_version: Path,
    engine_config: EngineConfig,
) -> None:
    old = expected(tiny_version, engine_config, GREEDY)
    new = expected(other_tiny_version, engine_config, GREEDY)
    assert old != new

    async def scenario(engine: AsyncEngine) -> None:
        results: list[GenerationResult] = []
        is_swapped = asyncio.Event()

        async def client(name: int) -> None:
            number = 0
            while not is_swapped.is_set() or number < 3:
                results.append(await collect(engine.generate(PROMPT, GREEDY, f"{name}.{number}")))
                number += 1

        clients = [asyncio.create_task(client(name)) for name in range(6)]
        before = engine.generate(PROMPT, GREEDY, "before")
        manifest = await engine.swap(other_tiny_version, grace_seconds=30)
        after = engine.generate(PROMPT, GREEDY, "after")
        is_swapped.set()
        await asyncio.gather(*clients)
        assert all(result in (old, new) for result in results)
        assert await collect(before) == old
        assert await collect(after) == new
        assert engine.versions == [manifest.tag]
        assert engine.current is not None
        assert engine.current.manifest == manifest

    run(scenario)


@asynccontextmanager
async def two_versions(
    engine: AsyncEngine, observer: RecordingObserver, other: Path
) -> AsyncIterator[tuple[OutputStream, OutputStream]]:
    """Answers of a version that drains and of its successor, both begun when the block is over."""
    observer.gate.clear()
    old = engine.generate(PROMPT, LONG, "a")
    await anext(old)
    swapping = asyncio.create_task(engine.swap(other, grace_seconds=30))
    while len(engine.versions) < 2:
        await asyncio.sleep(0)
    new = engine.generate(PROMPT, LONG, "a")
    await _commands(engine, 2)
    yield old, new
    await swapping


def test_versions_step_in_turns_in_the_one_thread(
    run: Callable[..., None],
    other_tiny_version: Path,
    observer: RecordingObserver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns: list[tuple[str, int]] = []

    def step(model: str, seconds: float, batch_size: int) -> None:
        turns.append((model, threading.get_ident()))

    monkeypatch.setattr(observer, "step", step)

    async def scenario(engine: AsyncEngine) -> None:
        async with two_versions(engine, observer, other_tiny_version) as streams:
            observer.gate.set()
            await asyncio.gather(*map(collect, streams))

    run(scenario)
    models = [model for model, _ in turns]
    first, last = models.index(models[-1]), len(models) - models[::-1].index(models[0])
    assert last - first > 90, "both were at work"
    assert all(one != next_ for one, next_ in pairwise(models[first:last]))
    assert len({thread for _, thread in turns} | {threading.get_ident()}) == 2


def test_failed_step_of_one_version_leaves_the_other_alone(
    run: Callable[..., None],
    other_tiny_version: Path,
    engine_config: EngineConfig,
    observer: RecordingObserver,
) -> None:
    alone = expected(other_tiny_version, engine_config, LONG)

    async def scenario(engine: AsyncEngine) -> None:
        async with two_versions(engine, observer, other_tiny_version) as (old, new):
            engine._versions[0].engine._model_runner._session = None  # every run fails
            observer.gate.set()
            with pytest.raises(EngineStoppedError, match="could not finish request a"):
                await collect(old)
            assert await collect(new) == alone

    run(scenario)


def test_swap_aborts_what_outlives_the_grace(
    run: Callable[..., None], other_tiny_version: Path, observer: RecordingObserver
) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        observer.gate.clear()
        streams = [engine.generate(PROMPT, LONG, str(number)) for number in range(6)]
        await anext(streams[0])
        swapping = asyncio.create_task(engine.swap(other_tiny_version, grace_seconds=0))
        await _commands(engine, 1 + 6)
        observer.gate.set()
        await swapping
        assert {(await collect(stream)).finish_reason for stream in streams} == {"abort"}
        assert len(engine.versions) == 1

    run(scenario)


def test_swap_back_does_not_wait_for_the_version_before_to_drain(
    run: Callable[..., None],
    tiny_version: Path,
    other_tiny_version: Path,
    observer: RecordingObserver,
) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        observer.gate.clear()  # so that nothing drains
        stream = engine.generate(PROMPT, LONG, "slow")
        first = asyncio.create_task(engine.swap(other_tiny_version, grace_seconds=30))
        second = asyncio.create_task(engine.swap(tiny_version, grace_seconds=30))
        while len(engine.versions) < 3:
            await asyncio.sleep(0)
        assert not first.done()
        observer.gate.set()
        await asyncio.gather(first, second)
        assert (await collect(stream)).finish_reason == "length"
        assert len(engine.versions) == 1

    run(scenario)


def test_step_that_never_ends_fails_its_streams_after_the_grace(
    run: Callable[..., None],
    other_tiny_version: Path,
    observer: RecordingObserver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(async_engine, "_ABORT_SECONDS", 0)

    async def scenario(engine: AsyncEngine) -> None:
        observer.gate.clear()
        stream = engine.generate(PROMPT, LONG, "stuck")
        await engine.swap(other_tiny_version, grace_seconds=0)
        with pytest.raises(EngineStoppedError):
            await collect(stream)
        observer.gate.set()  # now the thread gives the last output, which nobody waits for
        assert (await collect(engine.generate(PROMPT, GREEDY, "a"))).finish_reason == "length"

    run(scenario)


def test_failed_swap_leaves_the_old_version_serving(
    run: Callable[..., None], tiny_version: Path, engine_config: EngineConfig, tmp_path: Path
) -> None:
    alone = expected(tiny_version, engine_config, GREEDY)
    broken = shutil.copytree(tiny_version, tmp_path / "broken")
    with (broken / "model.onnx.data").open("ab") as file:
        file.write(b"x")

    async def scenario(engine: AsyncEngine) -> None:
        current, versions = engine.current, engine.versions
        with pytest.raises(ArtifactError, match="was changed"):
            await engine.swap(broken, grace_seconds=1)
        assert (engine.current, engine.versions) == (current, versions)
        assert await collect(engine.generate(PROMPT, GREEDY, "a")) == alone

    run(scenario)


def test_generate_with_a_named_version_binds_to_it(
    run: Callable[..., None], other_tiny_version: Path
) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        first = engine.current
        stream = engine.generate(PROMPT, GREEDY, "a", version=first)
        assert (await collect(stream)).finish_reason == "length"
        await engine.swap(other_tiny_version, grace_seconds=5)
        with pytest.raises(EngineStoppedError, match="no such model version"):
            engine.generate(PROMPT, GREEDY, "b", version=first)

    run(scenario)


def test_dropped_version_is_freed(run: Callable[..., None], other_tiny_version: Path) -> None:
    import weakref

    async def scenario(engine: AsyncEngine) -> None:
        old = weakref.ref(engine.current)
        await engine.swap(other_tiny_version, grace_seconds=5)
        await collect(engine.generate(PROMPT, GREEDY, "a"))  # the thread has taken the command
        gc.collect()
        assert old() is None

    run(scenario)


def test_stop_lets_running_requests_finish_and_refuses_new_ones(
    run: Callable[..., None], observer: RecordingObserver
) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        observer.gate.clear()
        stream = engine.generate(PROMPT, LONG, "a")
        stopping = asyncio.create_task(engine.stop(drain_seconds=30))
        await anext(stream)
        observer.gate.set()
        with pytest.raises(EngineStoppedError, match="not running"):
            engine.generate(PROMPT, GREEDY, "b")
        assert (await collect(stream)).finish_reason == "length"
        await stopping
        assert (engine.current, engine.versions, engine.is_ready) == (None, [], False)

    run(scenario)


def test_stop_while_a_replaced_version_drains(
    run: Callable[..., None], other_tiny_version: Path, observer: RecordingObserver
) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        observer.gate.clear()
        stream = engine.generate(PROMPT, LONG, "a")
        swapping = asyncio.create_task(engine.swap(other_tiny_version, grace_seconds=30))
        while len(engine.versions) < 2:
            await asyncio.sleep(0)
        stopping = asyncio.create_task(engine.stop(drain_seconds=30))
        await asyncio.sleep(0)
        observer.gate.set()
        await asyncio.gather(swapping, stopping)
        assert (await collect(stream)).finish_reason == "length"
        assert engine.versions == []

    run(scenario)


def test_stop_without_time_aborts(run: Callable[..., None], observer: RecordingObserver) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        observer.gate.clear()
        streams = [engine.generate(PROMPT, LONG, str(number)) for number in range(6)]
        await anext(streams[0])
        stopping = asyncio.create_task(engine.stop(drain_seconds=0))
        await _commands(engine, 6)
        observer.gate.set()
        await stopping
        assert {(await collect(stream)).finish_reason for stream in streams} == {"abort"}

    run(scenario)


def test_swap_into_a_stopping_engine_is_refused(
    run: Callable[..., None], other_tiny_version: Path
) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        swapping = asyncio.create_task(engine.swap(other_tiny_version, grace_seconds=1))
        await asyncio.sleep(0)
        await engine.stop(drain_seconds=1)
        with pytest.raises(EngineStoppedError):
            await swapping

    run(scenario)


def test_engine_without_a_version_refuses(engine_config: EngineConfig) -> None:
    async def main() -> None:
        engine = AsyncEngine(engine_config)
        await engine.start()
        assert not engine.is_ready
        with pytest.raises(EngineStoppedError, match="no such model version"):
            engine.generate(PROMPT, GREEDY, "a")
        await engine.stop(drain_seconds=0)

    asyncio.run(main())
