"""The real service as a process: BentoML, engine, store and metrics together."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import openai
import pytest

from everloop.errors import ConfigError
from everloop.registry import Registry
from everloop.settings import Home
from feedback.store.store import Store, open_store
from serving import launch
from tests.serving.conftest import make_client
from tests.serving.fakes import wait_until

ROOT = Path(__file__).parents[2]
FORBIDDEN = ("torch", "transformers", "trl", "datasets", "pandas", "evidently", "sklearn")
ASK = [{"role": "user", "content": "Hello"}]

# A service in its own interpreter, without a socket: what is loaded once it has
# answered, and how its probes change while the model loads.
IN_PROCESS = """
import asyncio, json, sys
import httpx
from serving.service import Everloop
at_import = sorted(sys.modules)

async def main():
    app = Everloop.to_asgi()
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
            before = [(await http.get(p)).status_code for p in ("/livez", "/readyz", "/v1/models")]
            while (await http.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.02)
            body = {"model": "everloop", "messages": [{"role": "user", "content": "Hi"}]}
            answer = await http.post("/v1/chat/completions", json=body | {"max_tokens": 4})
            metrics = (await http.get("/metrics")).text
    print(json.dumps({
        "before": before, "status": answer.status_code, "metrics": metrics,
        "at_import": at_import, "loaded": sorted(sys.modules),
    }))

asyncio.run(main())
"""


@dataclass
class Service:
    home: Home
    port: int
    process: "subprocess.Popen[bytes]"
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        store = open_store(self.home.database_url)
        try:
            yield store
        finally:
            store.close()

    @property
    def log(self) -> str:
        return (self.home.root / "server.log").read_text(encoding="utf-8")


@contextlib.contextmanager
def running(home: Home) -> Iterator[Service]:
    port = launch.free_port()
    process = launch.start(
        home,
        "127.0.0.1",
        port,
        overrides=["engine.num_threads=1", "engine.max_num_seqs=8", "server.poll_seconds=0.1"],
        log_file=home.root / "server.log",
    )
    service = Service(home, port, process)
    try:
        launch.wait_ready(service.url, 90, process)
        yield service
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


@pytest.fixture
def filled(home: Home, versions: tuple[Path, Path]) -> Home:
    Registry(home).save(versions[0])
    return home


def ask(ai: openai.OpenAI, **fields):
    body = {"model": "everloop", "messages": ASK, "max_tokens": 8, "temperature": 0}
    return ai.chat.completions.create(**body | {"extra_body": {"ignore_eos": True}} | fields)


def test_importing_the_service_loads_no_engine():
    """BentoML's builder imports the module too, and serves nothing."""
    script = "import serving.service, sys, json; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True)
    loaded = set(json.loads(run.stdout))
    assert not loaded & {*FORBIDDEN, "onnxruntime", "sqlalchemy", "tokenizers"}


@pytest.fixture(scope="module")
def in_process(versions: tuple[Path, Path], tmp_path_factory) -> dict:
    home = Home(tmp_path_factory.mktemp("service") / "home").create()
    Registry(home).save(versions[0])
    run = subprocess.run(
        [sys.executable, "-c", IN_PROCESS],
        cwd=ROOT, env=launch.environment(home), capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.slow
def test_running_service_has_loaded_nothing_of_training_or_drift(in_process):
    assert in_process["status"] == 200
    loaded = {name.split(".")[0] for name in in_process["loaded"]}
    assert {"onnxruntime", "sqlalchemy", "tokenizers", "prometheus_client"} <= loaded
    assert not loaded & set(FORBIDDEN)


@pytest.mark.slow
def test_probes_while_the_model_loads(in_process):
    assert in_process["before"] == [200, 503, 200]


@pytest.mark.slow
def test_metrics_are_those_of_one_process(in_process):
    assert "process_resident_memory_bytes" in in_process["metrics"]
    assert 'pid="' not in in_process["metrics"]


@pytest.mark.slow
def test_service_as_a_process(filled):
    with running(filled) as service, make_client(service.url, strict=True) as ai:
        assert ask(ai).usage.completion_tokens == 8
        with ask(ai, stream=True) as answer:
            assert list(answer)[-1].choices[0].finish_reason == "length"
        for _ in range(3):  # one of them at least is left before its end
            with ask(ai, stream=True, max_tokens=480) as answer:
                next(iter(answer))
        assert wait_until(lambda: aborted(service.url) >= 1)
        # Shared objects show what is loaded even where Python's own list would not.
        maps = Path(f"/proc/{service.process.pid}/maps")
        if maps.exists():
            text = maps.read_text(encoding="utf-8")
            assert "onnxruntime" in text
            assert not any(f"/{name}/" in text for name in FORBIDDEN)
        assert httpx.get(f"{service.url}/nowhere").json()["error"]["type"] == (
            "invalid_request_error"
        )
        unknown = httpx.get(f"{service.url}/v1/a%0Ab")
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_url")
        assert "Everloop" in httpx.get(service.url).text
        with pytest.raises(ConfigError, match="another server"):
            launch.check(filled, "127.0.0.1", launch.free_port())
        with service.store() as store:
            assert wait_until(lambda: len(store.interactions()) == 5)
    assert service.process.returncode == 0
    assert "Hello" not in service.log


def aborted(url: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("llm_aborted_requests_total{")
    )


@pytest.mark.slow
def test_deployment_is_swapped_in_without_a_failed_request(filled, versions):
    with running(filled) as service, make_client(service.url, strict=True) as ai:
        second = Registry(filled).save(versions[1])
        answers: list[str] = []
        failures: list[Exception] = []
        enough = threading.Event()

        def talk() -> None:
            while not enough.is_set():
                try:
                    answers.append(ask(ai).model)
                except openai.OpenAIError as error:
                    failures.append(error)

        threads = [threading.Thread(target=talk) for _ in range(3)]
        for thread in threads:
            thread.start()
        with service.store() as store:
            assert wait_until(lambda: len(answers) > 5)
            store.record_model_version(second)
            deployment = store.deploy(second.tag, "promote", "test")
            assert wait_until(lambda: answers[-1] == second.tag)
            assert wait_until(lambda: store.champion().status == "live")
            assert store.champion().id == deployment.id
        enough.set()
        for thread in threads:
            thread.join(60)
        assert failures == []
        assert 'llm_model_swap_total{result="ok"} 2.0' in httpx.get(f"{service.url}/metrics").text


@pytest.mark.slow
def test_sigterm_lets_streams_finish(filled):
    texts: dict[int, str] = {}
    begun = threading.Semaphore(0)
    body = {"model": "everloop", "messages": ASK, "max_tokens": 450, "ignore_eos": True}

    def read(number: int, url: str) -> None:
        with httpx.stream("POST", url, json=body | {"stream": True}, timeout=60) as response:
            received = response.iter_text()
            first = next(received)
            begun.release()
            texts[number] = first + "".join(received)

    with running(filled) as service:
        url = f"{service.url}/v1/chat/completions"
        threads = [threading.Thread(target=read, args=(number, url)) for number in range(8)]
        for thread in threads:
            thread.start()
        assert all(begun.acquire(timeout=60) for _ in threads)
        asked_to_stop = time.time()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(60) == 0
        for thread in threads:
            thread.join(60)
        assert len(texts) == 8
        assert all(text.endswith("data: [DONE]\n\n") for text in texts.values())
        with service.store() as store:
            kept = store.interactions()
        assert [row.finish_reason for row in kept] == ["length"] * 8
        # Else the streams had ended before the signal, and nothing was shown.
        assert max(row.created_at + row.e2e_seconds for row in kept) > asked_to_stop
        with pytest.raises(httpx.ConnectError):
            httpx.get(service.url)


@pytest.mark.slow
def test_killed_server_has_lost_no_answer_that_a_client_has(filled):
    complete: set[str] = set()
    with running(filled) as service:

        def talk() -> None:
            with make_client(service.url, strict=True) as ai, contextlib.suppress(openai.APIError):
                for number in range(1000):
                    if number % 2:
                        complete.add(ask(ai).id)
                        continue
                    with ask(ai, stream=True) as answer:
                        ids = {chunk.id for chunk in answer}
                    # The official client stops reading at [DONE]; without one it would too.
                    complete.update(ids)

        threads = [threading.Thread(target=stream_only, args=(service.url, complete))]
        threads += [threading.Thread(target=talk) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert wait_until(lambda: len(complete) > 60)
        service.process.kill()
        service.process.wait(60)
        for thread in threads:
            thread.join(60)
        with service.store() as store:
            kept = {row.id for row in store.interactions() if row.finish_reason == "length"}
        assert complete - kept == set()


def stream_only(url: str, complete: set[str]) -> None:
    """Read raw bytes and count an answer only when its [DONE] has come."""
    body = {"model": "everloop", "messages": ASK, "max_tokens": 8, "ignore_eos": True}
    with httpx.Client(base_url=url, trust_env=False) as http, contextlib.suppress(httpx.HTTPError):
        for _ in range(1000):
            text = http.post("/v1/chat/completions", json=body | {"stream": True}).text
            if text.endswith("data: [DONE]\n\n"):
                complete.add(json.loads(text.split("\n\n")[0].removeprefix("data: "))["id"])


@pytest.mark.slow
def test_version_that_does_not_fit_is_refused_with_the_numbers(filled):
    port = launch.free_port()
    overrides = ["engine.max_memory_bytes=1000000", "server.poll_seconds=0.05"]
    log = filled.root / "server.log"
    process = launch.start(filled, "127.0.0.1", port, overrides=overrides, log_file=log)
    service = Service(filled, port, process)
    try:
        assert wait_until(lambda: "swap failed" in service.log)
        needed, refused = (
            next(line for line in service.log.splitlines() if text in line)
            for text in ("memory needed", "swap failed")
        )
        assert re.search(r"weights_mib=\d+ cache_mib=\d+ .* free_mib=1$", needed)
        assert re.search(
            r"needs \d+ MiB for weights, \d+ MiB for attention and \d+ MiB for the cache", refused
        )
        assert service.log.index("memory needed") < service.log.index("swap failed")
        reply = httpx.post(
            f"{service.url}/v1/completions", json={"model": "everloop", "prompt": "x"}
        )
        assert reply.status_code == 503
        with service.store() as store:
            assert [row.status for row in store.deployments()] == ["failed"]
    finally:
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.slow
def test_service_that_cannot_start_ends_and_says_why(filled, monkeypatch):
    monkeypatch.setenv("EVERLOOP_DATABASE_URL", "sqlite:////nowhere/store.sqlite")
    log = filled.root / "server.log"
    process = launch.start(filled, "127.0.0.1", launch.free_port(), log_file=log)
    try:
        assert process.wait(60) == 1
        text = log.read_text("utf-8")
        assert "the service cannot start: store /nowhere/store.sqlite" in text
        assert "Traceback" not in text
    finally:
        process.kill()
