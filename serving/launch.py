"""Run the service as a process: `everloop serve`, and programs that need a server beside them.

All checks that can fail with a sentence come before BentoML starts, whose own failures are pages.
"""

import ipaddress
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from filelock import FileLock, Timeout

from everloop.errors import ArtifactError, ConfigError, EngineError
from everloop.registry import Registry
from everloop.settings import Home, RunFile
from serving.engine.config import EngineConfig
from serving.openai_api.config import ServerConfig

ROOT = Path(__file__).resolve().parents[1]
GRACEFUL_SHUTDOWN_SECONDS = 30
# Longer than clients keep idle connections (httpx: 5 s), else one may ask while they are closed.
KEEP_ALIVE_SECONDS = 75

_POLL_SECONDS = 0.1


def serve(
    home: Home,
    host: str,
    port: int,
    *,
    config: Path | None = None,
    overrides: Sequence[str] = (),
) -> NoReturn:
    """Become the server: this process turns into BentoML's, so that signals need no forwarding.

    Args:
        home: the home folder.
        host: a loopback address.
        port: a free one.
        config: TOML of the run.
        overrides: `table.key=value`, laid over it.

    Raises:
        ConfigError: see `check`.
        ArtifactError: there is no model version to serve.
    """
    check(home, host, port, config=config, overrides=overrides)
    arguments = command(host, port)
    sys.stdout.flush()
    os.dup2(2, 1)  # stdout is for results; a server has none
    os.execve(arguments[0], arguments, environment(home, config, overrides))


def start(
    home: Home,
    host: str,
    port: int,
    *,
    config: Path | None = None,
    overrides: Sequence[str] = (),
    log_file: Path | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a server beside this program, in a session of its own; SIGTERM stops it.

    Args:
        home, host, port, config, overrides: as for `serve`.
        log_file: takes the server's output; None for this program's stderr.

    Raises:
        ConfigError, ArtifactError: as for `serve`.
    """
    check(home, host, port, config=config, overrides=overrides)
    output = None if log_file is None else log_file.open("ab")
    try:
        return subprocess.Popen(
            command(host, port),
            env=environment(home, config, overrides),
            stdin=subprocess.DEVNULL,
            stdout=output or sys.stderr,
            stderr=output or sys.stderr,
            start_new_session=True,
        )
    finally:
        if output is not None:
            output.close()


def check(
    home: Home,
    host: str,
    port: int,
    *,
    config: Path | None = None,
    overrides: Sequence[str] = (),
) -> None:
    """Find out whether a server can start.

    Raises:
        ConfigError: the host is not this machine, the port is taken, another server holds the home
            folder, or the run file is wrong.
        ArtifactError: there is no model version to serve.
    """
    run_file = RunFile.load(config, tuple(overrides))
    run_file.table("server", ServerConfig)
    run_file.table("engine", EngineConfig)
    _check_loopback(host)
    _check_not_locked(home.create())
    _check_port(host, port)
    if not Registry(home).list():
        raise ArtifactError(
            f"{home.root} has no model version to serve. Run `everloop demo`, or `everloop train` "
            "and `everloop export`."
        )


def command(host: str, port: int) -> list[str]:
    """The command line of BentoML's server."""
    return [
        sys.executable,
        *("-m", "bentoml", "serve", "serving.service:Everloop"),
        *("--working-dir", str(ROOT)),
        *("--host", host, "--port", str(port)),
        *("--timeout-keep-alive", str(KEEP_ALIVE_SECONDS)),
        *("--timeout-graceful-shutdown", str(GRACEFUL_SHUTDOWN_SECONDS)),
    ]


def environment(
    home: Home, config: Path | None = None, overrides: Sequence[str] = ()
) -> dict[str, str]:
    """The environment of the server: this process's, with what it must know of the run."""
    result = os.environ | {
        "EVERLOOP_HOME": str(home.root.resolve()),
        "EVERLOOP_SET": "\n".join(overrides),
        "BENTOML_HOME": str(home.bentoml.resolve()),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    result.pop("EVERLOOP_CONFIG", None)
    if config is not None:
        result["EVERLOOP_CONFIG"] = str(config.resolve())
    return result


def wait_ready(url: str, timeout: float, process: "subprocess.Popen[bytes] | None" = None) -> None:
    """Wait until a server takes requests.

    Args:
        url: such as http://127.0.0.1:3000.
        timeout: seconds.
        process: the server, if it is ours; its end ends the wait.

    Raises:
        EngineError: it is not ready in time, or has ended.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            raise EngineError(
                f"the server ended with exit code {process.returncode} before it was ready. Its "
                "log says why."
            )
        try:
            with opener.open(f"{url}/readyz", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(_POLL_SECONDS)
    raise EngineError(f"the server at {url} was not ready after {timeout:g} seconds.")


def is_serving(home: Home) -> bool:
    """Whether a server runs on this home folder now."""
    try:
        FileLock(home.server_lock).acquire(blocking=False).lock.release()
    except Timeout:
        return True
    return False


def free_port(host: str = "127.0.0.1") -> int:
    """Find a port that is free now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _check_loopback(host: str) -> None:
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ConfigError(
            f"host {host!r}: only this machine (127.0.0.1) can be served. Other hosts need API "
            "keys, which come with a later release."
        )


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} on {host} is in use ({error.strerror}). Choose another --port."
            ) from error


def _check_not_locked(home: Home) -> None:
    if is_serving(home):
        raise ConfigError(
            f"another server runs on the home folder {home.root}. Stop it, or use another --home."
        )
