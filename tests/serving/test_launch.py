"""What is checked before a server starts, and what it is started with."""

import socket
import subprocess
import sys
from pathlib import Path

import openai
import pytest
from filelock import FileLock

from everloop.errors import ArtifactError, ConfigError, EngineError
from everloop.registry import Registry
from serving import launch
from serving.listening import listen


@pytest.fixture
def filled(home, versions):
    Registry(home).save(versions[0])
    return home


def test_check_passes_for_a_home_with_a_version(filled):
    launch.check(filled, "127.0.0.1", launch.free_port())


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::"])
def test_check_refuses_other_hosts(filled, host):
    with pytest.raises(ConfigError, match="API keys"):
        launch.check(filled, host, 1)


def test_check_refuses_a_name(filled):
    with pytest.raises(ConfigError, match="is no address"):
        launch.check(filled, "example.org", 1)


def test_check_takes_any_host_where_all_are_a_containers_own(filled, monkeypatch):
    monkeypatch.setenv("EVERLOOP_CONTAINERIZED", "True")
    launch.check(filled, "0.0.0.0", launch.free_port())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
def test_check_takes_loopback(filled, host):
    launch.check(filled, host, launch.free_port())


def test_localhost_is_every_kind_of_address_of_this_machine():
    port = launch.free_port()
    sockets = listen("localhost", port)
    addresses = {bound.getsockname()[0] for bound in sockets}
    for bound in sockets:
        bound.close()
    assert "127.0.0.1" in addresses
    assert addresses <= {"127.0.0.1", "::1"}


def test_check_refuses_a_port_in_use(filled):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} .* in use"):
            launch.check(filled, "127.0.0.1", port)


def test_check_refuses_a_second_server_on_a_home(filled):
    with (
        FileLock(filled.server_lock),
        pytest.raises(ConfigError, match="another server runs on the home folder"),
    ):
        launch.check(filled, "127.0.0.1", launch.free_port())


def test_check_refuses_a_home_without_a_version(home):
    with pytest.raises(ArtifactError, match="everloop demo"):
        launch.check(home, "127.0.0.1", launch.free_port())


def test_check_refuses_a_wrong_run_file(filled, tmp_path):
    run = tmp_path / "run.toml"
    run.write_text("[server]\ndefault_max_token = 5\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="default_max_tokens"):
        launch.check(filled, "127.0.0.1", launch.free_port(), config=run)
    with pytest.raises(ConfigError, match=r"engine\.max_queue"):
        launch.check(filled, "127.0.0.1", launch.free_port(), overrides=["engine.max_queue=many"])


def test_environment_carries_the_run(home, tmp_path):
    found = launch.environment(home, tmp_path / "run.toml", ["server.poll_seconds=0.5", "a.b=1"])
    assert found["EVERLOOP_HOME"] == str(home.root)
    assert found["EVERLOOP_CONFIG"] == str(tmp_path / "run.toml")
    assert found["EVERLOOP_SET"] == "server.poll_seconds=0.5\na.b=1"
    assert found["BENTOML_HOME"] == str(home.bentoml)
    assert found["BENTOML_DO_NOT_TRACK"] == "True"


def test_environment_drops_another_runs_file(home, monkeypatch):
    monkeypatch.setenv("EVERLOOP_CONFIG", "other.toml")
    assert "EVERLOOP_CONFIG" not in launch.environment(home)


def test_command_imports_the_same_from_every_folder(home, tmp_path):
    (tmp_path / "serving.py").write_text("raise SystemExit(99)", encoding="utf-8")
    python, option, *_ = launch.command("127.0.0.1", 3000)
    run = subprocess.run(
        [python, option, "-c", "import serving; print(serving.__file__)"],
        cwd=tmp_path, env=launch.environment(home), capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    assert Path(run.stdout.decode().strip()).parent == Path(launch.__file__).parent


def test_idle_connections_outlast_those_of_the_official_client():
    expiry = openai.DEFAULT_CONNECTION_LIMITS.keepalive_expiry
    assert expiry is not None
    assert 2 * expiry < launch.KEEP_ALIVE_SECONDS


def test_wait_ready_gives_up_after_its_time():
    url = f"http://127.0.0.1:{launch.free_port()}"
    with pytest.raises(EngineError, match=r"was not ready after 0\.2 seconds"):
        launch.wait_ready(url, 0.2)


def test_wait_ready_sees_that_the_server_has_ended():
    ended = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
    ended.wait(20)
    with pytest.raises(EngineError, match="exit code 7"):
        launch.wait_ready("http://127.0.0.1:1", 5, ended)


def test_wait_ready_returns_when_requests_are_taken(url):
    launch.wait_ready(url, 60)
