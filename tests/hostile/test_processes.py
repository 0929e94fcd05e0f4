"""Other users of the machine, and processes that die: what a running server is exposed to."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from everloop.process_status import RESTARTS, read_status
from everloop.registry import Registry
from everloop.settings import Home
from serving import launch
from tests.serving.fakes import wait_until
from tests.tiny_model import make_tiny_version

ROOT = Path(__file__).parents[2]
ASK = {"model": "everloop", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}

# As any user of the machine: send a command of BentoML's supervisor to every port, and look at the
# home folder. Prints which ports answered as a supervisor does, and what could be read.
STRANGER = """
import json, os, pathlib, sys, zmq
ports, home, mark = json.loads(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
os.setgroups([]); os.setgid(65534); os.setuid(65534)
command = {"command": "add", "id": "1", "properties": {
    "name": "x", "cmd": "/bin/sh", "args": ["-c", "id > " + mark], "start": True}}
answered = []
context = zmq.Context()
for port in ports:
    peer = context.socket(zmq.DEALER)
    peer.setsockopt(zmq.LINGER, 0)
    peer.setsockopt(zmq.IDENTITY, b"stranger")
    peer.connect(f"tcp://127.0.0.1:{port}")
    peer.send(json.dumps(command).encode())
    if peer.poll(1500):
        answered.append(port)
    peer.close()
readable = []
for path in (home, home / "store.sqlite", home / "status" / "restarts.json"):
    try:
        os.listdir(path) if path == home else path.read_bytes()
        readable.append(path.name)
    except PermissionError:
        pass
print(json.dumps({"answered": answered, "readable": readable}))
"""


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_version(tmp_path_factory.mktemp("version"), max_model_len=512, seed=1)


@pytest.fixture
def filled(home: Home, version: Path) -> Home:
    Registry(home).save(version)
    return home


@dataclass
class Server:
    home: Home
    process: "subprocess.Popen[bytes]"
    url: str


@pytest.fixture(scope="module")
def server(version: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`everloop serve`, for the tests that leave it as they found it."""
    home = Home(tmp_path_factory.mktemp("served") / "home").create()
    Registry(home).save(version)
    with everloop(home, "serve") as (process, url):
        yield Server(home, process, url)


@contextmanager
def everloop(home: Home, *verb: str) -> "Iterator[tuple[subprocess.Popen[bytes], str]]":
    """A command of everloop's that serves; gives its process and the URL when it is ready."""
    port = launch.free_port()
    command = [sys.executable, "-m", "everloop", *verb, "--home", str(home.root)]
    command += ["--port", str(port), "--set", "engine.num_threads=1"]
    command += ["--set", "engine.max_num_seqs=1"]
    with (home.root / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        launch.wait_ready(url, 120, process)
        yield process, url
    finally:
        process.terminate()
        process.wait(90)


def family(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def listening(process: "subprocess.Popen[bytes]") -> list[int]:
    return sorted(
        connection.laddr.port
        for one in family(process)
        for connection in one.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    )


def child(process: "subprocess.Popen[bytes]", word: str) -> psutil.Process:
    (found,) = [one for one in family(process)[1:] if word in one.cmdline()]
    return found


@pytest.mark.slow
def test_no_port_but_the_api_listens(server):
    assert listening(server.process) == [int(server.url.rpartition(":")[2])]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_other_users_can_do_nothing(server, tmp_path):
    tmp_path.chmod(0o777)
    mark = tmp_path / "mark"
    stranger = [sys.executable, "-c", STRANGER, json.dumps(listening(server.process))]
    found = subprocess.run(
        [*stranger, str(server.home.root), str(mark)], capture_output=True, check=True, timeout=60
    )
    assert json.loads(found.stdout) == {"answered": [], "readable": []}
    assert not mark.exists()
    assert httpx.get(f"{server.url}/readyz").status_code == 200


@pytest.mark.slow
def test_bentoml_serve_is_refused_because_of_its_supervisor(filled):
    run = subprocess.run(
        [sys.executable, "-m", "bentoml", "serve", "serving.service:Everloop",
         "--host", "127.0.0.1", "--port", str(launch.free_port())],
        cwd=ROOT, env=launch.environment(filled), capture_output=True, timeout=120,
    )  # fmt: skip
    assert b"without authentication. Start the service by `everloop serve`" in run.stdout
    assert not filled.server_lock.exists()


def test_home_and_store_are_their_owners_alone(tmp_path):
    from feedback.store.store import open_store

    before = os.umask(0)
    try:
        home = Home(tmp_path / "home").create()
        open_store(home.database_url).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700
    files = [path for path in home.root.iterdir() if path.name.startswith("store.sqlite")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_home_and_store_of_an_earlier_release_are_closed_to_others(tmp_path):
    from feedback.store.store import open_store

    home = Home(tmp_path / "home").create()
    open_store(home.database_url).close()
    home.root.chmod(0o755)
    (home.root / "store.sqlite").chmod(0o644)
    store = open_store(home.create().database_url)
    store.close()
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700
    assert stat.S_IMODE((home.root / "store.sqlite").stat().st_mode) == 0o600


def test_folder_that_is_no_home_keeps_its_rights(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o755)
    Home(folder).create()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


@pytest.mark.slow
def test_server_that_was_killed_comes_back_and_the_metric_says_so(server):
    killed = child(server.process, "serving.server")
    killed.kill()
    killed.wait(60)
    status = server.home.status / RESTARTS
    assert wait_until(lambda: read_status(status)["server"]["restarts"] == 1)
    launch.wait_ready(server.url, 120, server.process)
    assert httpx.post(f"{server.url}/v1/chat/completions", json=ASK).status_code == 200
    line = 'llm_process_restarts_total{process="server"} 1.0'
    assert line in httpx.get(f"{server.url}/metrics").text
    log = (server.home.root / "server.log").read_text(encoding="utf-8")
    assert "process server ended: signal SIGKILL" in log


@pytest.mark.slow
def test_up_goes_on_when_its_worker_dies(filled):
    with everloop(filled, "up") as (process, url):
        server = child(process, "serving.server")
        killed = child(process, "worker")
        killed.kill()
        killed.wait(60)
        assert wait_until(lambda: read_status(filled.status / RESTARTS)["worker"]["restarts"] == 1)
        assert wait_until(lambda: any("worker" in one.cmdline() for one in family(process)[1:]))
        assert server.is_running()
        assert httpx.post(f"{url}/v1/chat/completions", json=ASK).status_code == 200
    assert process.returncode == 0


@pytest.mark.slow
def test_second_server_that_loses_the_race_for_a_home_says_so_and_fails(server):
    """Both have passed the checks when the first takes the home."""
    loser = subprocess.run(
        launch.command("127.0.0.1", launch.free_port()),
        env=launch.environment(server.home), capture_output=True, timeout=120,
    )  # fmt: skip
    assert loser.returncode == 2
    errors = [line for line in loser.stderr.decode().splitlines() if " ERROR " in line]
    assert len(errors) == 1
    assert f"another server runs on the home folder {server.home.root}" in errors[0]
    assert "Traceback" not in loser.stderr.decode()


@pytest.mark.slow
def test_answers_that_outlast_a_stop_and_clients_that_come_meanwhile_are_told(filled):
    """One row at a time, so that most of the answers have not begun when the stop comes."""
    body = ASK | {"max_tokens": 480, "ignore_eos": True}
    replies: dict[int, httpx.Response] = {}
    begun = threading.Semaphore(0)

    def read(number: int, url: str) -> None:
        asked = body | {"stream": number % 2 == 0}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=asked, timeout=90) as response:
            if response.status_code == 200:
                begun.release()
            response.read()
            replies[number] = response

    with everloop(filled, "serve") as (process, url):
        threads = [threading.Thread(target=read, args=(number, url)) for number in range(24)]
        for thread in threads:
            thread.start()
        assert begun.acquire(timeout=60)
        serving = child(process, "serving.server")
        serving.send_signal(signal.SIGTERM)
        assert wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 503)
        late = httpx.post(f"{url}/v1/chat/completions", json=ASK, timeout=10)
        serving.send_signal(signal.SIGTERM)  # a second one ends the grace
        for thread in threads:
            thread.join(90)
    assert (late.status_code, late.json()["error"]["code"]) == (503, "shutting_down")
    assert len(replies) == 24
    told = 0
    for reply in replies.values():
        if reply.status_code == 503:
            told += reply.json()["error"]["code"] == "shutting_down"
        elif "text/event-stream" in reply.headers["content-type"]:
            assert reply.text.endswith("data: [DONE]\n\n")
            told += "shutting_down" in reply.text
        else:
            assert reply.json()["choices"][0]["finish_reason"] == "length"
    assert told
