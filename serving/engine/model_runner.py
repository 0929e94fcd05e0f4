"""One packed run of the ONNX graph over all slots. The only file that knows the runtime.

State lies in preallocated tensors [slots, …] and is updated in place: every run binds the same
memory as input and as output, starting at the lowest slot that takes part. The small inputs and the
logits live in arrays that all runs share; a binding, which costs as much as a small step, is kept
per shape.

Shapes: T new tokens of all rows, B rows from the lowest slot to the highest, S width of the widest
row, R tokens whose logits are wanted, V vocabulary.
"""

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from everloop.errors import ArtifactError, EngineError
from everloop.manifest import Manifest
from serving.engine.config import EngineConfig
from serving.engine.scheduler import ScheduledRow

_GRAPH = "model.onnx"
_MAX_BINDINGS = 128


class _Shape(NamedTuple):
    first_slot: int
    tokens: int  # T
    rows: int  # B
    width: int  # S
    logits: int  # R


class ModelRunner:
    """A session, the state of its slots and the arrays that a run reads and writes.

    Args:
        folder: a model version.
        manifest: of that version.
        config: the number of slots, the most tokens of one run, and the session's threads.

    Raises:
        ArtifactError: ONNX Runtime does not take the graph, or its state is of an unknown kind.
    """

    def __init__(self, folder: Path, manifest: Manifest, config: EngineConfig) -> None:
        num_slots, max_tokens = config.max_num_seqs, config.max_num_batched_tokens
        self._folder = folder
        self._manifest = manifest
        self._capacity = capacity(manifest)
        self._state = [
            np.zeros((num_slots, *shape), dtype) for shape, dtype in state_shapes(manifest)
        ]
        self._options = _options(config)
        self._session = self._open()
        self._bindings: OrderedDict[_Shape, Any] = OrderedDict()
        self._layout: object = None
        cells = num_slots * manifest.max_query_len
        self._input_ids = np.zeros(max_tokens, np.int64)
        self._pad_index = np.zeros(cells, np.int64)
        self._unpad_index = np.zeros(max_tokens, np.int64)
        self._query_seqlens = np.zeros(num_slots, np.int32)
        self._seqlens_k = np.zeros(num_slots, np.int32)
        self._total_len = np.zeros(1, np.int32)
        self._logits_index = np.zeros(max_tokens, np.int64)
        # The system gives memory to the pages that are written: a row per token costs nothing
        # until somebody wants the logits of a whole chunk.
        self._logits = np.zeros((max_tokens, manifest.vocab_size), np.float32)

    def run(self, rows: list[ScheduledRow]) -> NDArray[np.float32]:
        """Run the new tokens of the rows; their state grows by them.

        Args:
            rows: in ascending order of slots.

        Returns:
            (R, V): the wanted logits of each row, in the order of the rows and of their tokens;
            valid until the next run.

        Raises:
            EngineError: the plan does not fit into the cache, or ONNX Runtime failed.
        """
        slots = [row.sequence.slot or 0 for row in rows]
        counts = [len(row.token_ids) for row in rows]
        wanted = [row.num_logits for row in rows]
        shape = _Shape(slots[0], sum(counts), slots[-1] - slots[0] + 1, max(counts), sum(wanted))
        totals = [
            row.sequence.num_computed_tokens + count
            for row, count in zip(rows, counts, strict=True)
        ]
        self._check(shape, slots, counts, totals)
        layout = (slots, counts, wanted)
        if layout != self._layout:
            self._lay_out(shape, slots, counts, wanted)
            self._layout = layout
        self._input_ids[: shape.tokens] = [token_id for row in rows for token_id in row.token_ids]
        self._seqlens_k[self._row_index] = totals
        self._seqlens_k[self._row_index] -= 1
        self._total_len[0] = max(totals)
        try:
            self._session.run_with_iobinding(self._binding(shape))
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed in a step: {error}") from error
        return self._logits[: shape.logits]

    def reopen(self) -> None:
        """Open the session again; the state of the slots stays."""
        self._bindings.clear()
        self._session = self._open()

    def _check(self, shape: _Shape, slots: list[int], counts: list[int], totals: list[int]) -> None:
        # GroupQueryAttention writes S new positions for every row, padding included; beyond the
        # capacity that is another slot's memory.
        longest = max(total - count for total, count in zip(totals, counts, strict=True))
        if longest + shape.width > self._capacity:
            raise EngineError(
                f"a step of width {shape.width} over {longest} cached tokens exceeds the cache "
                f"capacity of {self._capacity}."
            )
        if (
            slots[-1] >= len(self._query_seqlens)
            or shape.tokens > len(self._input_ids)
            or shape.width > self._manifest.max_query_len
            or min(counts) < 1
            or any(low >= high for low, high in pairwise(slots))
        ):
            raise EngineError(f"a step with slots {slots} and token counts {counts} is malformed.")

    def _lay_out(
        self, shape: _Shape, slots: list[int], counts: list[int], wanted: list[int]
    ) -> None:
        """Fill the inputs that are the same for every step with these rows and widths."""
        rows = np.asarray(slots) - shape.first_slot
        widths = np.asarray(counts)
        ends = widths.cumsum()
        column = np.arange(shape.tokens) - np.repeat(ends - widths, widths)
        cells = np.repeat(rows, widths) * shape.width + column
        self._row_index = rows
        self._unpad_index[: shape.tokens] = cells
        self._pad_index[: shape.rows * shape.width] = 0
        self._pad_index[cells] = np.arange(shape.tokens)
        self._query_seqlens[: shape.rows] = 0
        self._query_seqlens[rows] = widths
        self._seqlens_k[: shape.rows] = 0
        self._logits_index[: shape.logits] = [
            end - back
            for end, count in zip(ends.tolist(), wanted, strict=True)
            for back in range(count, 0, -1)
        ]

    def _binding(self, shape: _Shape) -> Any:
        binding = self._bindings.get(shape)
        if binding is None:
            if len(self._bindings) >= _MAX_BINDINGS:
                self._bindings.popitem(last=False)
            binding = self._bindings[shape] = self._bind(shape)
        else:
            self._bindings.move_to_end(shape)
        return binding

    def _bind(self, shape: _Shape) -> Any:
        binding = self._session.io_binding()
        _, tokens, rows, width, logits = shape
        for name, array, dims in (
            ("input_ids", self._input_ids, (tokens,)),
            ("pad_index", self._pad_index, (rows, width)),
            ("unpad_index", self._unpad_index, (tokens,)),
            ("query_seqlens", self._query_seqlens, (rows,)),
            ("seqlens_k", self._seqlens_k, (rows,)),
            ("total_len", self._total_len, (1,)),
            ("logits_index", self._logits_index, (logits,)),
        ):
            binding.bind_input(name, "cpu", 0, array.dtype.type, dims, array.ctypes.data)
        dims = (logits, self._manifest.vocab_size)
        binding.bind_output("logits", "cpu", 0, np.float32, dims, self._logits.ctypes.data)
        for tensor, state in zip(self._manifest.state, self._state, strict=True):
            address = state.ctypes.data + shape.first_slot * state.strides[0]
            dims = (rows, *state.shape[1:])
            binding.bind_input(tensor.input, "cpu", 0, state.dtype.type, dims, address)
            binding.bind_output(tensor.output, "cpu", 0, state.dtype.type, dims, address)
        return binding

    def _open(self) -> Any:
        try:
            return ort.InferenceSession(
                str(self._folder / _GRAPH), self._options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ArtifactError(
                f"{self._folder / _GRAPH} cannot be opened by ONNX Runtime {ort.__version__}: "
                f"{error}. Export the model version again."
            ) from error


def capacity(manifest: Manifest) -> int:
    """Tokens that a slot has room for: the longest sequence and the padding of one wide step."""
    return manifest.max_model_len + manifest.max_query_len


def state_shapes(manifest: Manifest) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and dtype of one slot of every state tensor.

    Raises:
        ArtifactError: a tensor is of a kind that this engine does not keep.
    """
    for tensor in manifest.state:
        if tensor.kind != "kv":
            raise ArtifactError(
                f"model version {manifest.tag}: state tensor {tensor.input} is of kind "
                f"{tensor.kind!r}, this engine keeps 'kv' only. Export a Transformer instead."
            )
    return [
        (
            tuple(capacity(manifest) if axis == "capacity" else axis for axis in tensor.shape),
            np.dtype(tensor.dtype),
        )
        for tensor in manifest.state
    ]


def _options(config: EngineConfig) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = config.threads
    options.inter_op_num_threads = 1
    spinning = str(int(config.allow_spinning))
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    # The planner keeps a pattern for every shape it meets, and shapes differ with every prompt.
    options.enable_mem_pattern = False
    return options
