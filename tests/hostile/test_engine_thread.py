"""The engine's thread goes on whatever is raised in it, and tells those whom it concerns."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from everloop.errors import DataError, EngineError, EngineStoppedError
from serving.engine.async_engine import AsyncEngine
from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine
from serving.engine.output_stream import OutputStream
from serving.engine.sampling_params import SamplingParams
from serving.engine.sequence import GenerationResult
from serving.engine.stop_matcher import StopMatcher

PROMPT = [9, 8, 7, 6, 5]
GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
LONG = SamplingParams(max_tokens=100, temperature=0.0, ignore_eos=True)
CONFIG = EngineConfig(num_threads=1, max_num_seqs=20, speculation="off", wide_steps="off")


class Panic(BaseException):
    """As PyO3's, which is no Exception."""


def named(fault: BaseException) -> str:
    return type(fault).__name__


FAULTS = [IndexError("0"), MemoryError(), Panic("in Rust")]
faults_of_requests = pytest.mark.parametrize("fault", FAULTS, ids=named)
faults = pytest.mark.parametrize("fault", [*FAULTS, SystemExit(1)], ids=named)


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    from tests.tiny_model import make_tiny_version

    folder = tmp_path_factory.mktemp("thread")
    first = make_tiny_version(folder / "1", embeddings=True, seed=0)
    return first, make_tiny_version(folder / "2", seed=1)


@pytest.fixture(scope="module")
def alone(versions: tuple[Path, Path]) -> GenerationResult:
    return LLMEngine.load(versions[0], CONFIG).generate([PROMPT], LONG)[0]


@asynccontextmanager
async def started(version: Path) -> AsyncIterator[AsyncEngine]:
    engine = AsyncEngine(CONFIG)
    await engine.start()
    await engine.swap(version, grace_seconds=5)
    try:
        async with asyncio.timeout(60):
            yield engine
    finally:
        await engine.stop(drain_seconds=5)


def run(version: Path, scenario: Callable[[AsyncEngine], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with started(version) as engine:
            await scenario(engine)

    asyncio.run(main())


async def collect(stream: OutputStream) -> GenerationResult:
    return GenerationResult.join([output async for output in stream])


def raising(fault: BaseException) -> Callable[..., Any]:
    def fail(*args: object, **kwargs: object) -> None:
        raise fault

    return fail


def once(fault: BaseException, then: Callable[..., Any]) -> Callable[..., Any]:
    """Raise the first time, and do the work from then on."""
    calls: list[None] = []

    def fail(*args: object, **kwargs: object) -> Any:
        calls.append(None)
        if len(calls) == 1:
            raise fault
        return then(*args, **kwargs)

    return fail


@faults_of_requests
def test_request_that_cannot_be_added_fails_alone(
    versions: tuple[Path, Path], alone: GenerationResult, fault: BaseException
) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        others = [engine.generate(PROMPT, LONG, f"other {number}") for number in range(16)]
        await anext(others[0])
        core = engine.current
        core._factory.make = once(fault, core._factory.make)
        with pytest.raises(EngineError):
            await collect(engine.generate(PROMPT, GREEDY, "hostile"))
        results = await asyncio.gather(*map(collect, others[1:]))
        assert all(result == alone for result in results)
        assert engine.is_ready
        assert await collect(engine.generate(PROMPT, LONG, "next")) == alone

    run(versions[0], scenario)


@faults_of_requests
def test_abort_that_raises_ends_no_other_stream(
    versions: tuple[Path, Path], alone: GenerationResult, fault: BaseException
) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        other = engine.generate(PROMPT, LONG, "other")
        leaving = engine.generate(PROMPT, LONG, "leaving")
        await anext(leaving)
        core = engine.current
        core._batches.end = once(fault, core._batches.end)
        await leaving.aclose()
        assert await collect(other) == alone
        assert await collect(engine.generate(PROMPT, LONG, "next")) == alone

    run(versions[0], scenario)


@faults
def test_step_that_raises_fails_its_own_streams_and_the_version_goes_on(
    versions: tuple[Path, Path],
    alone: GenerationResult,
    fault: BaseException,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        core = engine.current
        streams = [engine.generate(PROMPT, LONG, str(number)) for number in range(24)]
        await anext(streams[0])
        scheduler = core._scheduler
        scheduler.schedule = once(fault, scheduler.schedule)
        results = await asyncio.gather(*map(collect, streams), return_exceptions=True)
        assert {type(result) for result in results} == {EngineStoppedError}
        assert engine.is_ready
        again = [engine.generate(PROMPT, LONG, str(number)) for number in range(24)]
        assert all([await collect(stream) == alone for stream in again])
        assert core._cache.num_free_slots == CONFIG.max_num_seqs

    run(versions[0], scenario)
    assert "a step failed" in caplog.text


def test_outputs_of_a_step_that_raises_are_not_lost(
    versions: tuple[Path, Path], alone: GenerationResult
) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        core = engine.current
        note = core._note_step

        def fail_after_the_last(*args: Any) -> None:
            note(*args)
            if any(output.finish_reason for output in core._outputs):
                raise MemoryError

        core._note_step = fail_after_the_last
        assert await collect(engine.generate(PROMPT, LONG, "a")) == alone

    run(versions[0], scenario)


def test_version_whose_steps_raise_leaves_the_other_alone(versions: tuple[Path, Path]) -> None:
    expected = LLMEngine.load(versions[1], CONFIG).generate([PROMPT], LONG)[0]

    async def scenario(engine: AsyncEngine) -> None:
        old = engine.current
        stream = engine.generate(PROMPT, LONG, "old")
        await anext(stream)
        old._scheduler.schedule = raising(MemoryError())
        swap = asyncio.create_task(engine.swap(versions[1], grace_seconds=30))
        with pytest.raises(EngineStoppedError):
            await collect(stream)
        await swap
        assert await collect(engine.generate(PROMPT, LONG, "new")) == expected

    run(versions[0], scenario)


@faults
def test_round_that_raises_is_followed_by_another(
    versions: tuple[Path, Path],
    alone: GenerationResult,
    fault: BaseException,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        stream = engine.generate(PROMPT, LONG, "a")
        await anext(stream)
        engine._inbox.put(raising(fault))
        with pytest.raises(EngineStoppedError):
            await collect(stream)
        assert engine.is_ready
        assert await collect(engine.generate(PROMPT, LONG, "b")) == alone

    run(versions[0], scenario)
    assert "every version begins anew" in caplog.text


def test_recovery_that_fails_is_seen(
    versions: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        engine.current.reset = raising(MemoryError())
        stream = engine.generate(PROMPT, LONG, "a")
        await anext(stream)
        engine._inbox.put(raising(RuntimeError("a fault of ours")))
        with pytest.raises(EngineStoppedError):
            await collect(stream)
        assert not engine.is_ready
        with pytest.raises(EngineStoppedError):
            engine.generate(PROMPT, LONG, "b")

    with caplog.at_level(logging.ERROR):
        run(versions[0], scenario)
    assert "the engine's thread died" in caplog.text


@pytest.mark.parametrize("stop", [("x",) * 5, ("y" * 20_000,), ("a" * 20_000,) * 4])
def test_stops_are_bounded_in_number_and_length(stop: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=r"stop has .*, the limit is"):
        SamplingParams(max_tokens=8, stop=stop)


class Counted(str):
    """A text that counts how often one of its characters is looked at."""

    looks = 0

    def __getitem__(self, key: Any) -> str:
        self.looks += isinstance(key, int)
        return super().__getitem__(key)


@pytest.mark.parametrize("length", [4, 64, 256])
@pytest.mark.parametrize("text", ["a" * 4096, ("a" * 3 + "c") * 1024, ("a" * 255 + "c") * 16])
def test_a_character_costs_the_same_however_long_the_stops_are(length: int, text: str) -> None:
    stop = Counted("a" * (length - 1) + "b")
    matcher = StopMatcher((stop,))
    assert stop.looks <= 4 * length
    stop.looks = 0
    for character in text:
        assert matcher.find(character) is None
        assert matcher.num_pending < length
    assert stop.looks <= 4 * len(text)
