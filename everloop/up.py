"""Server, worker and monitor together, each a process of its own: `everloop up`."""

import sys
from pathlib import Path

from everloop.settings import Home
from everloop.supervisor import supervise

# Longer than the server's own drain, so that it is never cut short from here.
GRACE_SECONDS = 40.0


def run_up(home: Home, config: Path | None, overrides: tuple[str, ...], port: int) -> int:
    """Run the three processes of a home until one ends or a signal comes.

    Args:
        port: of the service; the monitor's gauges stand on the next one.

    Returns:
        An exit code: 0 after a signal.
    """
    shared = ["--home", str(home.root)]
    shared += ["--config", str(config)] if config else []
    shared += [part for override in overrides for part in ("--set", override)]
    everloop = [sys.executable, "-m", "everloop"]
    commands = {
        "serve": [*everloop, "serve", *shared, "--port", str(port)],
        "worker": [*everloop, "worker", *shared],
        "monitor": [*everloop, "monitor", *shared, "--port", str(port + 1)],
    }
    return supervise(commands, GRACE_SECONDS)
