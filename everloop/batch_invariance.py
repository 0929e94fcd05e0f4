"""Whether answers of a version depend on their company on this machine, asked without a server."""

import logging
from pathlib import Path

from everloop.errors import EverloopError
from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine

logger = logging.getLogger(__name__)


def batch_invariance(folder: Path) -> bool | None:
    """Load a version as a server with default settings does, and give what it measured.

    Args:
        folder: of the version.

    Returns:
        None if the version cannot be loaded here; the log says why.
    """
    try:
        return LLMEngine.load(folder, EngineConfig()).batch_invariant
    except EverloopError as error:
        logger.warning("batch_invariant is not known: %s", error)
        return None
