"""Measure matrix products by ONNX Runtime, for the machine's record."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from everloop.machine_record import (
    MachineRecord,
    OnnxRuntimeSpeed,
    ProductSpeed,
    measured_record,
)
from serving.engine.config import EngineConfig

# One product each, [rows, 1024] with [1024, 2048]; tests/serving/engine/product_graphs.py writes
# them, since a serving process cannot.
_GRAPHS = {name: Path(__file__).with_name(f"product_{name}.onnx") for name in ("fp32", "int8")}
_INNER, _COLUMNS = 1024, 2048
# A single stream, a few, as many as the engine runs at once, and a chunk of a prompt.
ROWS = (1, 8, 32, 256)
_SECONDS = 0.1  # for each number of rows
_LEAST_ROUNDS = 3


def onnxruntime_record(*, again: bool = False) -> MachineRecord:
    """The machine's record with ONNX Runtime's products, measured if they are not known.

    Args:
        again: measure although they are known.
    """
    return measured_record("onnxruntime", measure_onnxruntime, again=again)


def measure_onnxruntime() -> OnnxRuntimeSpeed:
    """Multiply in turn in fp32 and int8, for several numbers of rows; about a second.

    With the threads that the engine takes by default, and the best of all rounds: in turn, because
    the speed of a machine that others use drifts.
    """
    threads = EngineConfig().threads
    sessions = {name: _open(path, threads) for name, path in _GRAPHS.items()}
    products = tuple(_measure(sessions, rows) for rows in ROWS)
    return OnnxRuntimeSpeed(version=ort.__version__, threads=threads, products=products)


def _measure(sessions: dict[str, Any], rows: int) -> ProductSpeed:
    inputs = {"a": np.random.default_rng(0).standard_normal((rows, _INNER), np.float32)}
    best = dict.fromkeys(sessions, float("inf"))
    for session in sessions.values():
        session.run(None, inputs)  # the first run allocates
    started, rounds = time.perf_counter(), 0
    while rounds < _LEAST_ROUNDS or time.perf_counter() - started < _SECONDS:
        rounds += 1
        for name, session in sessions.items():
            before = time.perf_counter()
            session.run(None, inputs)
            best[name] = min(best[name], time.perf_counter() - before)
    gflop = 2.0 * rows * _INNER * _COLUMNS / 1e9
    speeds = {name: round(gflop / seconds, 2) for name, seconds in best.items()}
    return ProductSpeed(rows=rows, **speeds)


def _open(graph: Path, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
