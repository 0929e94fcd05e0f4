"""Server, worker and monitor together, each a process of its own: `everloop up`."""

import sys
from pathlib import Path

from everloop.process_status import RESTARTS
from everloop.settings import Home
from everloop.supervisor import Restarts, supervise
from serving import launch

_HOST = "127.0.0.1"


def run_up(home: Home, config: Path | None, overrides: tuple[str, ...], port: int) -> int:
    """Run the three processes of a home until a signal comes; one that ends is started again.

    Args:
        port: of the service; the monitor's gauges stand on the next one.

    Returns:
        An exit code: 0 after a signal.

    Raises:
        ConfigError, ArtifactError: the server cannot start.
    """
    launch.check(home, _HOST, port, config=config, overrides=overrides)
    shared = ["--home", str(home.root)]
    shared += ["--config", str(config)] if config else []
    shared += [part for override in overrides for part in ("--set", override)]
    everloop = [sys.executable, "-m", "everloop"]
    commands = {
        "server": launch.command(_HOST, port),
        "worker": [*everloop, "worker", *shared],
        "monitor": [*everloop, "monitor", *shared, "--port", str(port + 1)],
    }
    return supervise(
        commands,
        launch.STOP_SECONDS,
        Restarts(record=home.status / RESTARTS),
        launch.environment(home, config, overrides),
    )
