"""A small runner of the ONNX graph for parity, losses and golden continuations.

Simple on purpose: inputs are built anew for every step, and there is no scheduler and no sampling.
It follows the contract to the letter, cache in place included, so that what it verifies is what the
serving engine runs. It is not the serving engine.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from everloop.attention_kernel import choose_attention_kernel
from everloop.errors import ArtifactError
from everloop.wide_graph import UNPACK_ENTRY

_CPU = ("cpu", 0)
_DTYPES = {"tensor(float)": np.float32, "tensor(int8)": np.int8}


def open_session(graph: Path, num_threads: int | None = None) -> ort.InferenceSession:
    """Load a graph on the CPU; num_threads None = one per core.

    Raises:
        ArtifactError: onnxruntime refuses the file.
    """
    choose_attention_kernel()
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that spin while they wait would take the cores from torch, and from other processes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry(*UNPACK_ENTRY)
    try:
        return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no other base
        raise ArtifactError(f"{graph}: onnxruntime cannot load the graph: {error}.") from error


class ReferenceRunner:
    """One session with the state of fixed slots.

    Attributes:
        lengths: cached tokens of each slot; lower one to roll back, 0 frees the slot.
        state: name of a graph input to the tensor of all slots.
    """

    def __init__(
        self, session: ort.InferenceSession, *, slots: int, capacity: int, fill: float = 0.0
    ) -> None:
        """Allocate the cache.

        Args:
            session: of a graph written by `write_graph`.
            slots: rows that the cache can hold.
            capacity: tokens of one slot; a step needs cached tokens + its widest row to fit.
            fill: value of the unused cache; parity uses a large one to prove it is never read.
        """
        self._session = session
        self.capacity = capacity
        self.lengths = np.zeros(slots, np.int64)
        self.state: dict[str, np.ndarray] = {}
        for tensor in session.get_inputs():
            if tensor.name.startswith("past"):
                shape = [capacity if axis == "C" else axis for axis in tensor.shape[1:]]
                state = np.zeros((slots, *shape), _DTYPES[tensor.type])
                if fill:  # else its memory is taken where it is used, and no more
                    state.fill(fill)
                self.state[tensor.name] = state
        self.is_recurrent = all(tensor.ndim == 2 for tensor in self.state.values())

    def clear(self) -> None:
        """Forget what all slots hold."""
        self.lengths[:] = 0

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Start a slot with the first tokens of another; of a recurrent state, with all of them."""
        for tensor in self.state.values():
            if self.is_recurrent:
                tensor[target] = tensor[source]
            else:
                tensor[target, :, :length] = tensor[source, :, :length]
        self.lengths[target] = length

    def step(self, work: Mapping[int, Sequence[int]]) -> dict[int, np.ndarray]:
        """Run the new tokens of some slots in one packed batch.

        Args:
            work: slot to its new tokens, at least one; slots between them stay idle.

        Returns:
            Slot to logits [new tokens, vocabulary].
        """
        (logits,) = self.run(work, ["logits"])
        slots, counts = _count(work)
        ends = np.cumsum(counts[slots])[:-1]
        return dict(zip(slots, np.split(logits, ends), strict=True))

    def run(self, work: Mapping[int, Sequence[int]], outputs: Sequence[str]) -> list[np.ndarray]:
        """Run one packed batch; give outputs of the graph, which hold all new tokens in a row."""
        return self._run(work, outputs, slice(None))

    def fill(self, work: Mapping[int, Sequence[int]]) -> None:
        """Run one packed batch for the state alone: one logit row, however many new tokens."""
        self._run(work, ["logits"], slice(-1, None))

    def _run(
        self, work: Mapping[int, Sequence[int]], outputs: Sequence[str], rows: slice
    ) -> list[np.ndarray]:
        slots, counts = _count(work)
        inputs = _packed_inputs(work, slots, counts, self.lengths[: len(counts)])
        inputs["logits_index"] = inputs["logits_index"][rows]
        if self.is_recurrent:
            for tensor in self.state.values():
                tensor[[slot for slot in slots if not self.lengths[slot]]] = 0
        binding = self._bind(inputs, len(counts), outputs)
        self._session.run_with_iobinding(binding)
        self.lengths[: len(counts)] += counts
        return [value.numpy() for value in binding.get_outputs()[: len(outputs)]]

    def time_step(self, work: Mapping[int, Sequence[int]], repeats: int) -> list[float]:
        """Seconds of each of several runs of one batch; the lengths stay as they are."""
        slots, counts = _count(work)
        inputs = _packed_inputs(work, slots, counts, self.lengths[: len(counts)])
        binding = self._bind(inputs, len(counts), ["logits"])
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            self._session.run_with_iobinding(binding)
            seconds.append(time.perf_counter() - started)
        return seconds

    def _bind(
        self, inputs: Mapping[str, np.ndarray], rows: int, outputs: Sequence[str]
    ) -> ort.IOBinding:
        """Bind arrays that the caller keeps alive, and the state of the first rows in place."""
        binding = self._session.io_binding()
        for name in outputs:  # before the state: get_outputs keeps the order of binding
            binding.bind_output(name, *_CPU)
        for name, value in inputs.items():
            binding.bind_cpu_input(name, value)
        for name, tensor in self.state.items():
            output = f"present.{name.partition('.')[2]}"
            view = (tensor.dtype.type, (rows, *tensor.shape[1:]), tensor.ctypes.data)
            binding.bind_input(name, *_CPU, *view)
            binding.bind_output(output, *_CPU, *view)
        return binding


def _count(work: Mapping[int, Sequence[int]]) -> tuple[list[int], np.ndarray]:
    """Slots in order, and the new tokens of every slot up to the last of them."""
    slots = sorted(work)
    counts = np.zeros(slots[-1] + 1, np.int64)
    counts[slots] = [len(work[slot]) for slot in slots]
    return slots, counts


def _packed_inputs(
    work: Mapping[int, Sequence[int]], slots: list[int], counts: np.ndarray, lengths: np.ndarray
) -> dict[str, np.ndarray]:
    rows, width, tokens = len(counts), int(counts.max()), int(counts.sum())
    pad_index = np.zeros((rows, width), np.int64)
    unpad_index = np.zeros(tokens, np.int64)
    start = 0
    for slot in slots:
        end = start + int(counts[slot])
        pad_index[slot, : end - start] = np.arange(start, end)
        unpad_index[start:end] = slot * width + np.arange(end - start)
        start = end
    totals = lengths + counts
    return {
        "input_ids": np.concatenate([np.asarray(work[slot], np.int64) for slot in slots]),
        "pad_index": pad_index,
        "unpad_index": unpad_index,
        "query_seqlens": counts.astype(np.int32),
        "seqlens_k": np.maximum(totals - 1, 0).astype(np.int32),
        "total_len": np.array([max(int(totals.max()), width)], np.int32),
        "logits_index": np.arange(tokens, dtype=np.int64),
    }
