"""What a process says about itself in the home folder, for metrics that another process shows.

One JSON object a file: `restarts.json` is the supervisor's, `rounds.json` the loop worker's. They
are rewritten whole, so a reader sees the old one or the new one.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

RESTARTS = "restarts.json"
ROUNDS = "rounds.json"


def write_status(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file; a disk that is full is logged and stops nobody."""
    partial = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        logger.warning("%s cannot be written: %s", path, error.strerror)


def read_status(path: Path) -> dict[str, Any]:
    """Read a file; one that is absent or damaged says nothing."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
