"""What the machine itself can do: memory bandwidth, and multiplications of large matrices.

Measured in the run that quotes them, again and again, and the best is kept: a limit, not an
average, and a neighbour can only lower what is found.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper

_TRIES = 8


@dataclass(slots=True)
class MachineLimits:
    """Upper bounds of one machine, as far as they are known.

    Attributes:
        bytes_per_second: read from memory.
        flops: single-precision operations per second, a multiplication and an addition being two.
        read_bytes: read at once; the default is far beyond every cache.
        matrix: rows and columns of what is multiplied.
    """

    bytes_per_second: float = 0.0
    flops: float = 0.0
    read_bytes: int = 512 << 20
    matrix: int = 2_048

    def measure(self, threads: int) -> None:
        """Raise the limits to what so many threads reach now; takes a second."""
        self.bytes_per_second = max(self.bytes_per_second, _read_speed(threads, self.read_bytes))
        self.flops = max(self.flops, _gemm_speed(threads, self.matrix))


def _read_speed(threads: int, read_bytes: int) -> float:
    torch.set_num_threads(threads)
    block = torch.ones(read_bytes // 4)
    return read_bytes / _best(block.sum)


def _gemm_speed(threads: int, matrix: int) -> float:
    """ONNX Runtime's kernel, which was faster here than torch's."""
    dims = [matrix, matrix]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in "abc"]
    node = helper.make_node("MatMul", ["a", "b"], ["c"])
    opset = [helper.make_opsetid("", 21)]
    graph = helper.make_graph([node], "gemm", values[:2], values[2:])
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(_serialized(model), options, providers=["CPUExecutionProvider"])
    feeds = {name: np.ones(dims, np.float32) for name in "ab"}
    return 2.0 * matrix**3 / _best(lambda: session.run(None, feeds))


def _serialized(model: onnx.ModelProto) -> bytes:
    data: bytes = model.SerializeToString()
    return data


def _best(work: Callable[[], object]) -> float:
    """Least seconds of several tries."""
    seconds = []
    for _ in range(_TRIES):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
