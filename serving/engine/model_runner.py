"""One packed run of the ONNX graph over all slots. The only file that knows the runtime.

A quantized version may have a second graph, with fp32 products, for steps of many tokens. Both run
over the same state, so that every step can take either.

State is updated in place: every run binds the same memory as input and as output, starting at the
lowest slot that takes part. The small inputs and the results live in arrays that all runs share; a
binding, which costs as much as a small step, is kept per shape.

Shapes: T new tokens of all rows, B rows from the lowest slot to the highest, S width of the widest
row, R tokens whose result is wanted, V vocabulary, D model width.
"""

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from everloop.attention_kernel import choose_attention_kernel
from everloop.errors import ArtifactError, EngineError
from everloop.manifest import Manifest
from everloop.wide_graph import FILE_NAME as WIDE_GRAPH
from everloop.wide_graph import UNPACK_ENTRY
from serving.engine.config import EngineConfig
from serving.engine.fresh_zeros import fresh_zeros
from serving.engine.scheduler import ScheduledRow
from serving.engine.slot_state import SlotState

_GRAPH = "model.onnx"
_LOGITS, _HIDDEN = "logits", "hidden_states"
_MAX_BINDINGS = 128


class _Shape(NamedTuple):
    first_slot: int
    tokens: int  # T
    rows: int  # B
    width: int  # S
    results: int  # R
    output: str
    is_wide: bool


class ModelRunner:
    """Sessions, the state of their slots and the arrays that a run reads and writes.

    Args:
        folder: a model version.
        manifest: of that version.
        config: the number of slots, the most tokens of one run, and the session's threads.

    Attributes:
        manifest: of the version.
        state: of its slots.
        wide_from: tokens of a step from which on it runs the wide graph, which is then open; None
            where no step does.

    Raises:
        ArtifactError: ONNX Runtime does not take the graph.
    """

    def __init__(self, folder: Path, manifest: Manifest, config: EngineConfig) -> None:
        num_slots, max_tokens = config.max_num_seqs, config.max_num_batched_tokens
        self._folder = folder
        self.manifest = manifest
        self.state = SlotState(manifest, num_slots)
        self.wide_from: int | None = None
        self._options = _options(config)
        self._session = self._open(_GRAPH)
        self._wide: Any = None
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
        widths = {_LOGITS: manifest.vocab_size}
        if manifest.has_hidden_states:
            widths[_HIDDEN] = manifest.hidden_size
        self._results = {
            output: fresh_zeros((max_tokens, width), np.float32) for output, width in widths.items()
        }
        # Without it the head would run for every hidden state, which nobody would look at.
        self._run_options = ort.RunOptions()
        self._run_options.only_execute_path_to_fetches = True
        # ONNX Runtime asks for this entry in every run, by an exception where it is missing: 49 µs.
        self._run_options.add_run_config_entry("gpu_graph_id", "-1")

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
        return self._run(rows, _LOGITS)

    def run_hidden(self, rows: list[ScheduledRow]) -> NDArray[np.float32]:
        """Run the rows for their hidden states, (R, D), instead of their logits; see `run`."""
        return self._run(rows, _HIDDEN)

    def _run(self, rows: list[ScheduledRow], output: str) -> NDArray[np.float32]:
        slots = [row.sequence.slot or 0 for row in rows]
        counts = [len(row.token_ids) for row in rows]
        wanted = [row.num_logits for row in rows]
        span = slots[-1] - slots[0] + 1
        num_tokens = sum(counts)
        is_wide = self.wide_from is not None and num_tokens >= self.wide_from
        shape = _Shape(slots[0], num_tokens, span, max(counts), sum(wanted), output, is_wide)
        totals = [
            row.sequence.num_computed_tokens + count
            for row, count in zip(rows, counts, strict=True)
        ]
        self._check(shape, slots, counts, totals)
        if self.state.is_recurrent:
            for row, slot in zip(rows, slots, strict=True):
                if not row.sequence.num_computed_tokens:
                    self.state.reset(slot)
        layout = (slots, counts, wanted)
        if layout != self._layout:
            self._lay_out(shape, slots, counts, wanted)
            self._layout = layout
        self._input_ids[: shape.tokens] = [token_id for row in rows for token_id in row.token_ids]
        self._seqlens_k[self._row_index] = totals
        self._seqlens_k[self._row_index] -= 1
        self._total_len[0] = max(totals)
        session = self._wide if is_wide else self._session
        try:
            session.run_with_iobinding(self._binding(shape), self._run_options)
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed in a step: {error}") from error
        return self._results[output][: shape.results]

    @property
    def sessions(self) -> list[Any]:
        """ONNX Runtime's open sessions: the version's graph, and the wide one if steps run it."""
        return [self._session] if self._wide is None else [self._session, self._wide]

    def reopen(self) -> None:
        """Open the sessions again; the state of the slots stays."""
        self._bindings.clear()
        self._session = self._open(_GRAPH)
        if self._wide is not None:
            self.open_wide()

    def open_wide(self) -> None:
        """Open the wide graph of a version that has one; `wide_from` says which steps run it.

        Raises:
            ArtifactError: ONNX Runtime does not take the graph.
        """
        self._wide = self._open(WIDE_GRAPH)

    def close_wide(self) -> None:
        """Give the memory of the wide graph back."""
        self.wide_from = self._wide = None
        self._bindings.clear()

    def _check(self, shape: _Shape, slots: list[int], counts: list[int], totals: list[int]) -> None:
        # GroupQueryAttention writes S new positions for every row, padding included; beyond the
        # capacity that is another slot's memory.
        longest = max(total - count for total, count in zip(totals, counts, strict=True))
        capacity = self.state.capacity
        if capacity is not None and longest + shape.width > capacity:
            raise EngineError(
                f"a step of width {shape.width} over {longest} cached tokens exceeds the cache "
                f"capacity of {capacity}."
            )
        if (
            slots[-1] >= len(self._query_seqlens)
            or shape.tokens > len(self._input_ids)
            or shape.width > self.manifest.max_query_len
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
        self._logits_index[: shape.results] = [
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
        first_slot, tokens, rows, width, results, output, is_wide = shape
        binding = (self._wide if is_wide else self._session).io_binding()
        for name, array, dims in (
            ("input_ids", self._input_ids, (tokens,)),
            ("pad_index", self._pad_index, (rows, width)),
            ("unpad_index", self._unpad_index, (tokens,)),
            ("query_seqlens", self._query_seqlens, (rows,)),
            ("seqlens_k", self._seqlens_k, (rows,)),
            ("total_len", self._total_len, (1,)),
            ("logits_index", self._logits_index, (results,)),
        ):
            binding.bind_input(name, "cpu", 0, array.dtype.type, dims, array.ctypes.data)
        buffer = self._results[output]
        shape_out = (results, buffer.shape[1])
        binding.bind_output(output, "cpu", 0, np.float32, shape_out, buffer.ctypes.data)
        for state in self.state.view(first_slot, rows):
            memory = ("cpu", 0, state.dtype, state.shape, state.address)
            binding.bind_input(state.input, *memory)
            binding.bind_output(state.output, *memory)
        return binding

    def _open(self, graph: str) -> Any:
        choose_attention_kernel()
        path = self._folder / graph
        try:
            return ort.InferenceSession(
                str(path), self._options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ArtifactError(
                f"{path} cannot be opened by ONNX Runtime {ort.__version__}: "
                f"{error}. Export the model version again."
            ) from error


def _options(config: EngineConfig) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = config.threads
    options.inter_op_num_threads = 1
    spinning = str(int(config.allow_spinning))
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    options.add_session_config_entry(*UNPACK_ENTRY)
    # The planner keeps a pattern for every shape it meets, and shapes differ with every prompt.
    options.enable_mem_pattern = False
    return options
