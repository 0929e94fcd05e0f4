"""Run the service as a process: `everloop serve`, `everloop up`, the Bento's image, and programs
that need a server beside them.

The process is `serving/server.py`. All checks that can fail with a sentence come before it starts.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from everloop.errors import ArtifactError, ConfigError, EngineError
from everloop.manifest import FILE_NAME
from everloop.process_status import RESTARTS
from everloop.registry import Registry
from everloop.settings import Home, RunFile
from everloop.supervisor import Restarts, supervise
from serving.engine.config import EngineConfig
from serving.listening import check_host, listen
from serving.openai_api.config import ServerConfig

ROOT = Path(__file__).resolve().parents[1]
GRACEFUL_SHUTDOWN_SECONDS = 30
# Of a stop, from the signal to the kill: the drain, the last records, the store.
STOP_SECONDS = GRACEFUL_SHUTDOWN_SECONDS + 20
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
) -> int:
    """Run the server until this process is told to stop, and start it again when it dies.

    Args:
        home: the home folder.
        host: a loopback address.
        port: a free one.
        config: TOML of the run.
        overrides: `table.key=value`, laid over it.

    Returns:
        An exit code: 0 after a stop.

    Raises:
        ConfigError: see `check`.
        ArtifactError: there is no model version to serve.
    """
    unpack_models(home)
    check(home, host, port, config=config, overrides=overrides)
    sys.stdout.flush()
    os.dup2(2, 1)  # stdout is for results; a server has none
    return supervise(
        {"server": command(host, port)},
        STOP_SECONDS,
        Restarts(record=home.status / RESTARTS),
        environment(home, config, overrides),
    )


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

    Nobody starts it again when it dies.

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
    check_host(host)
    _check_not_locked(home.create())
    for bound in listen(host, port):
        bound.close()
    if not Registry(home).list():
        raise ArtifactError(
            f"{home.root} has no model version to serve. Run `everloop demo`, or `everloop train` "
            "and `everloop export`."
        )


def command(host: str, port: int) -> list[str]:
    """The command line of the server's process."""
    # -P: what is imported does not depend on the folder that the command is run in.
    return [sys.executable, "-P", "-m", "serving.server", host, str(port)]


def environment(
    home: Home, config: Path | None = None, overrides: Sequence[str] = ()
) -> dict[str, str]:
    """The environment of the server: this process's, with what it must know of the run."""
    result = os.environ | {
        "EVERLOOP_HOME": str(home.root.resolve()),
        "EVERLOOP_SET": "\n".join(overrides),
        "BENTOML_HOME": str(home.bentoml.resolve()),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
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


def unpack_models(home: Home) -> None:
    """Copy the model versions that came inside a Bento's image into the home's model store."""
    folder = os.environ.get("BENTO_PATH")  # set by BentoML's images
    if not folder:
        return
    registry = Registry(home.create())
    known = {version.tag for version in registry.list()}
    for manifest in sorted(Path(folder).glob(f"models/*/*/{FILE_NAME}")):
        if f"{manifest.parts[-3]}:{manifest.parts[-2]}" not in known:
            registry.save(manifest.parent)


def _check_not_locked(home: Home) -> None:
    if is_serving(home):
        raise ConfigError(
            f"another server runs on the home folder {home.root}. Stop it, or use another --home."
        )
