"""Recurrent layers, LSTM or GRU, over packed tokens.

The operators take padded rows of ragged lengths, time first, and give each row's state after its
own last token. A row without new tokens would come back with a state of zeros, so it keeps the old
one. The layers' matrices stay fp32 in every precision: onnxruntime's quantized LSTM scales its
inputs over the whole batch, so a row would depend on those beside it, and there is no quantized
GRU. Shapes as in `graph.py`.
"""

from typing import Any

import numpy as np

from training.export.architecture import Recurrence
from training.export.modules import Modules
from training.export.state import layer_state

# The operator's gates as places in torch's: LSTM i f g o becomes i o f c, GRU r z n becomes z r h.
_GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}
_OPERATORS = {"lstm": "LSTM", "gru": "GRU"}


class RecurrentWriter:
    """Writes every recurrent layer of one checkpoint."""

    def __init__(self, modules: Modules, body: Recurrence) -> None:
        self._modules = modules
        self._cell = body.cell

    def write(self, hidden: str, output: str) -> str:
        """Run the layers on the embedding (T, D); give the wanted rows `output` (R, D)."""
        modules, nodes = self._modules, self._modules.nodes
        by_time = nodes.add("Transpose", ["pad_index"], ["pad_index.time"], perm=[1, 0])  # (S, B)
        x = nodes.gather(hidden, by_time, "recurrent.padded")  # (S, B, D)
        zero = nodes.constant("recurrent.zero", np.array(0, np.int32))
        moved = nodes.add("Greater", ["query_seqlens", zero], ["recurrent.moved"])  # (B,)
        axis = nodes.constant("recurrent.axis", np.array([1], np.int64))
        is_moved = nodes.add("Unsqueeze", [moved, axis], ["recurrent.is_moved"])  # (B, 1)
        for layer in range(modules.architecture.n_layer):
            x = self._layer(layer, x, is_moved)
        by_row = nodes.add("Transpose", [x], ["recurrent.rows"], perm=[1, 0, 2])  # (B, S, D)
        width = modules.architecture.n_embd
        rows = nodes.reshape(by_row, [-1, width], "recurrent.flat")  # (B S, D)
        wanted = nodes.gather("unpad_index", "logits_index", "wanted.index")  # (R,)
        return nodes.gather(rows, wanted, output)  # (R, D)

    def _layer(self, layer: int, x: str, is_moved: str) -> str:
        nodes, prefix = self._modules.nodes, f"layers.{layer}"
        width = self._modules.architecture.n_embd
        state = layer_state(self._modules.architecture, layer)
        initial = [
            nodes.reshape(tensor.input, [1, -1, width], f"{tensor.input}.initial")
            for tensor in state
        ]  # each (1, B, D)
        last = [f"{tensor.output}.last" for tensor in state]
        settings: dict[str, Any] = {"linear_before_reset": 1} if self._cell == "gru" else {}
        inputs = [x, *self._weights(layer), "query_seqlens", *initial]
        nodes.add(
            _OPERATORS[self._cell],
            inputs,
            [f"{prefix}.hidden", *last],
            hidden_size=width,
            **settings,
        )  # (S, 1, B, D)
        for tensor, new in zip(state, last, strict=True):
            flat = nodes.reshape(new, [-1, width], f"{tensor.output}.flat")  # (B, D)
            nodes.add("Where", [is_moved, flat, tensor.input], [tensor.output])
        axis = nodes.constant("recurrent.axis", np.array([1], np.int64))
        return nodes.add("Squeeze", [f"{prefix}.hidden", axis], [f"{prefix}.output"])  # (S, B, D)

    def _weights(self, layer: int) -> tuple[str, str, str]:
        """Input weights and recurrent weights, each (1, gates D, D), and both biases."""
        nodes, prefix = self._modules.nodes, f"layers.{layer}"
        inputs = self._gates(f"weight_ih_l{layer}", matrix=True)
        recurrent = self._gates(f"weight_hh_l{layer}", matrix=True)
        biases = [self._gates(f"bias_{part}_l{layer}", matrix=False) for part in ("ih", "hh")]
        return (
            nodes.constant(f"{prefix}.input_weight", inputs[None]),
            nodes.constant(f"{prefix}.recurrent_weight", recurrent[None]),
            nodes.constant(f"{prefix}.bias", np.concatenate(biases)[None]),
        )

    def _gates(self, name: str, *, matrix: bool) -> np.ndarray:
        """One tensor of torch's layer with its gates in the order of the operator."""
        architecture, order = self._modules.architecture, _GATES[self._cell]
        width = architecture.n_embd
        shape = (len(order) * width, width) if matrix else (len(order) * width,)
        tensor = self._modules.take(f"{architecture.family.recurrent}.{name}", *shape)
        gates = np.split(tensor, len(order))
        return np.concatenate([gates[place] for place in order])
