"""Our engine alone on the random model, for benchmarks that look into it and have no peer."""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.engine import MAX_MODEL_LEN, engine_config
from benchmarks.everloop_side import EverloopSide
from benchmarks.precisions import PRECISIONS
from benchmarks.random_model import SMOLLM2_135M, TINY, make_checkpoint
from benchmarks.report import parser


def side_options(description: str) -> argparse.ArgumentParser:
    """The options of every benchmark, and which engine is looked into."""
    options = parser(description)
    options.add_argument("--precision", choices=tuple(PRECISIONS), default="int8-kv8")
    options.add_argument("--spinning", action="store_true", help="set engine.allow_spinning")
    options.add_argument("--tiny", action="store_true", help="a tiny model: try the command out")
    return options


@contextmanager
def lone_side(arguments: argparse.Namespace) -> Iterator[EverloopSide]:
    """Make, export and load the model that the options ask for."""
    with tempfile.TemporaryDirectory() as folder:
        shape = TINY if arguments.tiny else SMOLLM2_135M
        checkpoint = make_checkpoint(Path(folder) / "checkpoint", shape)
        export = PRECISIONS[arguments.precision].export_config(MAX_MODEL_LEN)
        config = engine_config(arguments.spinning)
        with EverloopSide(checkpoint, arguments.precision, export, config) as side:
            yield side


def side_settings(arguments: argparse.Namespace) -> dict[str, object]:
    """What is printed beside the figures."""
    return {
        "precision": arguments.precision,
        "threads": engine_config(arguments.spinning).threads,
        "engine.allow_spinning": arguments.spinning,
    }
