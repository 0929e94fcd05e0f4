"""Logging: one line per event on stderr, configured once by the entry point."""

import logging
import sys

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def configure(level: str) -> None:
    """Send all log lines of this process to stderr.

    Args:
        level: a level name of the standard library, such as INFO.
    """
    logging.basicConfig(level=level.upper(), format=FORMAT, stream=sys.stderr, force=True)
    for noisy in ("httpx", "httpx2", "httpcore", "httpcore2", "alembic", "simple_di", "fsspec"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
