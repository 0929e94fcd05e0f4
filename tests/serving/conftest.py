"""An app over scripted neighbours on a live server, and tiny model versions for the real ones."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from starlette.applications import Starlette

from serving.openai_api.app import create_app
from serving.openai_api.config import ServerConfig
from tests.serving.fakes import MemoryRecorder, ObserverLog, ScriptedEngine, Stage, live_server


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def recorder() -> MemoryRecorder:
    return MemoryRecorder()


@pytest.fixture
def observer() -> ObserverLog:
    return ObserverLog()


@pytest.fixture
def config() -> ServerConfig:
    return ServerConfig()


@pytest.fixture
def app(
    engine: ScriptedEngine, recorder: MemoryRecorder, observer: ObserverLog, config: ServerConfig
) -> Starlette:
    return create_app(engine, recorder, observer, lambda accept: (b"up 1\n", "text/plain"), config)


@pytest.fixture(scope="session")
def stage() -> Iterator[tuple[Stage, str]]:
    """One server for all tests: starting and stopping it would take longer than they do."""
    stage = Stage()
    with live_server(stage, lifespan="off") as address:
        yield stage, address


@pytest.fixture
def url(stage: tuple[Stage, str], app: Starlette) -> str:
    stage[0].app = app
    return stage[1]


@pytest.fixture(scope="session")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two tiny random model versions of one name, older first."""
    from tests.tiny_model import make_tiny_version

    folder = tmp_path_factory.mktemp("versions")
    return (
        make_tiny_version(folder / "1", max_model_len=512, seed=1),
        make_tiny_version(folder / "2", max_model_len=512, seed=2),
    )


# Clients live as long as the server: each would load the system's certificates again.


@pytest.fixture(scope="session")
def _http(stage: tuple[Stage, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stage[1], timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture(scope="session")
def _client(stage: tuple[Stage, str]) -> Iterator[openai.OpenAI]:
    with make_client(stage[1], strict=True) as client:
        yield client


@pytest.fixture(scope="session")
def _lenient_client(stage: tuple[Stage, str]) -> Iterator[openai.OpenAI]:
    with make_client(stage[1], strict=False) as client:
        yield client


@pytest.fixture
def http(url: str, _http: httpx.Client) -> httpx.Client:
    return _http


@pytest.fixture
def client(url: str, _client: openai.OpenAI) -> openai.OpenAI:
    """The official client, refusing any reply that does not match its types."""
    return _client


@pytest.fixture
def lenient_client(url: str, _lenient_client: openai.OpenAI) -> openai.OpenAI:
    return _lenient_client


def make_client(url: str, *, strict: bool) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{url}/v1",
        api_key="unused",
        max_retries=0,
        timeout=60,
        _strict_response_validation=strict,
        http_client=openai.DefaultHttpxClient(trust_env=False),
    )
