"""The real app over a tiny random model that gives embeddings, for tests of the whole wire."""

from collections.abc import Iterator

import httpx
import openai
import pytest
from starlette.applications import Starlette

from serving.openai_api.app import create_app
from serving.openai_api.config import ServerConfig
from tests.serving.conftest import make_client
from tests.serving.fakes import Held, MemoryRecorder, ObserverLog, live_server


@pytest.fixture(scope="session")
def real_recorder() -> MemoryRecorder:
    return MemoryRecorder()


@pytest.fixture(scope="session")
def _held() -> Held:
    return Held()


@pytest.fixture
def held(_held: Held) -> Iterator[Held]:
    """Makes the real engine stand still."""
    yield _held
    _held.let_go()


@pytest.fixture(scope="session")
def real_app(
    real_recorder: MemoryRecorder, _held: Held, tmp_path_factory: pytest.TempPathFactory
) -> Starlette:
    from serving.engine.async_engine import AsyncEngine
    from serving.engine.config import EngineConfig
    from tests.tiny_model import make_tiny_version

    config = EngineConfig(
        num_threads=1, max_num_seqs=4, max_num_batched_tokens=64, max_memory_bytes=2**30
    )
    folder = make_tiny_version(
        tmp_path_factory.mktemp("embedding"), embeddings=True, max_model_len=1024, seed=3
    )
    engine = AsyncEngine(config, _held)
    app = create_app(
        engine, real_recorder, ObserverLog(), lambda accept: (b"", "text/plain"), ServerConfig()
    )
    watch = app.router.lifespan_context

    def lifespan(app: Starlette):
        return _Running(engine, folder, watch(app))

    app.router.lifespan_context = lifespan
    return app


class _Running:
    """The engine runs as long as the app does."""

    def __init__(self, engine, folder, inner) -> None:
        self.engine, self.folder, self.inner = engine, folder, inner

    async def __aenter__(self):
        await self.engine.start()
        await self.engine.swap(self.folder, 0)
        return await self.inner.__aenter__()

    async def __aexit__(self, *reason):
        await self.inner.__aexit__(*reason)
        await self.engine.stop(1)


@pytest.fixture(scope="session")
def real_url(real_app: Starlette) -> Iterator[str]:
    with live_server(real_app) as url:
        yield url


@pytest.fixture(scope="session")
def real_http(real_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=real_url, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture(scope="session")
def real_client(real_url: str) -> Iterator[openai.OpenAI]:
    with make_client(real_url, strict=True) as client:
        yield client
