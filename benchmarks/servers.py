"""Servers that are measured, as processes on loopback, and a trace sent to one of them."""

import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.peers.environment import ROOT
from benchmarks.peers.llama_cpp import SERVER, cache_options
from benchmarks.traffic import Request, Timeline, to_json
from everloop.registry import Registry
from everloop.settings import Home
from everloop.supervisor import terminate
from serving import launch

_HOST = "127.0.0.1"
_START_SECONDS = 120
_STOP_SECONDS = 45
_TRACE_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers.

    Attributes:
        model: the name to ask it for.
        worker: the process that answers, where its threads are of interest.
    """

    url: str
    model: str
    worker: psutil.Process | None = None

    def loop_seconds(self) -> float:
        """Processor time of the event loop so far: of the worker's first thread."""
        if self.worker is None:
            return 0.0
        first = next(one for one in self.worker.threads() if one.id == self.worker.pid)
        return float(first.user_time + first.system_time)

    def send(self, trace: Sequence[Request], clients: int) -> list[Timeline]:
        """Send a trace from another process.

        Raises:
            RuntimeError: a request failed or its answer was not whole.
        """
        module = "benchmarks.load_client"
        done = subprocess.run(
            [sys.executable, "-m", module, self.url, self.model, str(clients), str(_TRACE_SECONDS)],
            cwd=ROOT,
            input=to_json(trace),
            capture_output=True,
            text=True,
            timeout=_TRACE_SECONDS + 30,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{module} failed on {self.url}: {done.stderr[-1000:]}")
        return [Timeline(**fields) for fields in json.loads(done.stdout)]


@contextmanager
def everloop_server(version: Path, overrides: Sequence[str]) -> Iterator[Server]:
    """Serve a model version as `everloop serve` does, over a home folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home").create()
        name = Registry(home).save(version).manifest.name
        port = launch.free_port()
        log_file = Path(folder) / "server.log"
        process = launch.start(home, _HOST, port, overrides=overrides, log_file=log_file)
        try:
            url = f"http://{_HOST}:{port}"
            launch.wait_ready(url, _START_SECONDS, process)
            yield Server(url, name, psutil.Process(process.pid))
        finally:
            terminate([process], _STOP_SECONDS)


@contextmanager
def llama_server(
    model: Path, cache: str, *, threads: int, rows: int, max_model_len: int
) -> Iterator[Server]:
    """Serve a GGUF file with llama.cpp's server.

    Args:
        model: the file.
        cache: type of its cache.
        threads: of its computation.
        rows: requests at once.
        max_model_len: tokens of each.
    """
    port = launch.free_port()
    process = subprocess.Popen(
        [
            *(str(SERVER), "-m", str(model), "--host", _HOST, "--port", str(port), "--no-webui"),
            *("-t", str(threads), "-np", str(rows), "-c", str(rows * max_model_len)),
            *cache_options(cache),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        url = f"http://{_HOST}:{port}"
        _wait_healthy(f"{url}/health", process)
        yield Server(url, "random")
    finally:
        terminate([process], _STOP_SECONDS)


def _wait_healthy(url: str, process: "subprocess.Popen[bytes]") -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"llama-server ended with exit code {process.returncode}.")
        try:
            with opener.open(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"{url} was not healthy after {_START_SECONDS} seconds.")
