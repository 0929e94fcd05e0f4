"""The ONNX graph of a language model: one graph for prefill and decode, over packed tokens.

Every linear layer sees the packed tokens [T] of all rows; only attention and recurrent layers see
the padded shape [B, S], through `pad_index` and `unpad_index`. State is updated in place when the
caller binds a state tensor's input and output to the same memory. Only the positions of
`logits_index` go through the final norm and the head.

Shapes: T packed new tokens, B rows, S widest row's new tokens, C cache capacity, R wanted logits,
D model width, H query heads, G key/value heads, K head width, F feed-forward width, V vocabulary.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from everloop.errors import ArtifactError
from everloop.manifest import StateTensor
from training.export.architecture import Architecture, Attention
from training.export.equalization import NO_EQUALIZATION, Equalization
from training.export.external_data import ExternalData
from training.export.input_moments import InputMoments
from training.export.modules import Modules
from training.export.nodes import Nodes, Precision
from training.export.quantize import BLOCK_SIZE
from training.export.recurrent import RecurrentWriter
from training.export.state import state_tensors
from training.export.transformer import TransformerWriter
from training.export.weights import Weights

MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
HIDDEN_STATES = "hidden_states"


def write_graph(
    architecture: Architecture,
    weights: Weights,
    folder: Path,
    *,
    precision: Precision,
    positions: int,
    block_size: int = BLOCK_SIZE,
    fitted_to: InputMoments | Equalization | None = None,
    embeddings: bool = False,
) -> Path:
    """Write model.onnx and model.onnx.data.

    Args:
        architecture: names and sizes.
        weights: the checkpoint's tensors.
        folder: exists; files of the same names are replaced.
        precision: of the weights of the linear layers and the embedding table.
        positions: rows of the rotary tables, max_model_len + max_query_len.
        block_size: quantized weights that share a scale.
        fitted_to: what quantized weights are fitted to: the inputs of their products, by second
            moments or by the sizes of channels; None to judge by the values alone.
        embeddings: give the rows that the head sees as the output `hidden_states`, too.

    Raises:
        ArtifactError: a tensor is missing, of another shape or left over, or a width does not
            divide into blocks.
    """
    check_widths(architecture, precision, block_size)
    with ExternalData(folder / DATA_FILE) as data:
        moments = fitted_to if isinstance(fitted_to, InputMoments) else None
        equalization = fitted_to if isinstance(fitted_to, Equalization) else NO_EQUALIZATION
        nodes = Nodes(precision, data, block_size, moments)
        writer = _GraphWriter(architecture, weights, nodes, equalization)
        model = writer.write(positions, embeddings=embeddings)
    weights.refuse_leftovers(*([f"{architecture.family.head}.weight"] * architecture.is_tied))
    (folder / MODEL_FILE).write_bytes(model.SerializeToString(deterministic=True))
    return folder / MODEL_FILE


def check_widths(architecture: Architecture, precision: Precision, block_size: int) -> None:
    """Refuse a precision whose blocks do not fit into the model's widths.

    Raises:
        ArtifactError: names the width.
    """
    if precision == "fp32":
        return
    widths = {"hidden_size": architecture.n_embd}
    if isinstance(architecture.body, Attention):
        width = architecture.body.n_head * architecture.body.head_dim
        widths["num_attention_heads * head_dim"] = width
        widths["intermediate_size"] = architecture.body.n_ff
    for name, width in widths.items():
        if width % block_size:
            smaller = "" if block_size == BLOCK_SIZE else f" or block_size {BLOCK_SIZE}"
            raise ArtifactError(
                f"{architecture.family.architecture}: {precision} in blocks of {block_size} needs "
                f"{name} divisible by {block_size}, got {width}. Export with precision fp32"
                f"{smaller}, or train another size."
            )


class _GraphWriter:
    """Writes one checkpoint into nodes: embedding, body, head."""

    def __init__(
        self,
        architecture: Architecture,
        weights: Weights,
        nodes: Nodes,
        equalization: Equalization,
    ) -> None:
        self._architecture = architecture
        self._nodes = nodes
        self._modules = Modules(architecture, weights, nodes, equalization)
        head = architecture.family.embedding if architecture.is_tied else architecture.family.head
        self._head_factors = equalization.inputs.get(head)

    def write(self, positions: int, *, embeddings: bool) -> onnx.ModelProto:
        architecture, body = self._architecture, self._architecture.body
        if isinstance(body, Attention):
            writer: TransformerWriter | RecurrentWriter = TransformerWriter(
                self._modules, body, positions
            )
        else:
            writer = RecurrentWriter(self._modules, body)
        hidden = writer.write(self._embedding(), HIDDEN_STATES)  # (R, D)
        self._head(hidden)  # (R, V)
        state = state_tensors(architecture)
        return self._nodes.model(
            architecture.model_type, self._inputs(state), self._outputs(state, embeddings)
        )

    def _embedding(self) -> str:
        architecture, family = self._architecture, self._architecture.family
        table = self._modules.take(
            f"{family.embedding}.weight", architecture.vocab_size, architecture.n_embd
        )
        is_scaled = architecture.is_tied and self._head_factors is not None
        if is_scaled:
            table = table * self._head_factors
        hidden = self._nodes.embedding(table, family.embedding, "input_ids", "embedding")  # (T, D)
        if is_scaled:
            hidden = self._divided_by_head_factors(hidden)
        if architecture.embedding_scale != 1:
            scale = np.array(architecture.embedding_scale, np.float32)
            factor = self._nodes.constant("embedding.scale", scale)
            hidden = self._nodes.add("Mul", [hidden, factor], ["embedding.scaled"])
        if family.positions is not None:
            hidden = self._nodes.add(
                "Add", [hidden, self._learned_positions(family.positions)], ["embedding.placed"]
            )
        return hidden

    def _divided_by_head_factors(self, x: str) -> str:
        """What the head's matrix is multiplied by, its input is divided by (…, D)."""
        assert self._head_factors is not None
        inverse = self._nodes.constant("head.inverse_factors", 1 / self._head_factors)
        return self._nodes.add("Mul", [x, inverse], [f"{x}.divided"])

    def _learned_positions(self, module: str) -> str:
        """Embed the position of each packed token: its row's cached tokens and its column."""
        add, constant = self._nodes.add, self._nodes.constant
        architecture = self._architecture
        shape = add("Shape", ["pad_index"], ["position.shape"], start=1, end=2)  # S
        row = add("Div", ["unpad_index", shape], ["position.row"])  # (T,)
        column = add("Mod", ["unpad_index", shape], ["position.column"])  # (T,)
        one = constant("position.one", np.array(1, np.int32))
        total = add("Add", ["seqlens_k", one], ["position.total"])  # (B,)
        past = add("Sub", [total, "query_seqlens"], ["position.past"])  # (B,)
        past = add("Cast", [past], ["position.start"], to=TensorProto.INT64)
        start = self._nodes.gather(past, row, "position.row_start")  # (T,)
        position = add("Add", [start, column], ["position"])  # (T,)
        offset = architecture.family.position_offset
        table = self._modules.take(
            f"{module}.weight", architecture.max_seq_len + offset, architecture.n_embd
        )
        rows = constant(module, table[offset:])
        return self._nodes.gather(rows, position, "position.embedding")  # (T, D)

    def _head(self, hidden: str) -> None:
        """Logits (R, V): product, then bias, scale and soft cap where the family has them."""
        architecture, family, nodes = self._architecture, self._architecture.family, self._nodes
        shape = (architecture.vocab_size, architecture.n_embd)
        steps: list[tuple[str, np.ndarray]] = []
        if self._modules.has_bias(family.head):
            steps.append(("Add", self._modules.take(f"{family.head}.bias", shape[0])))
        if architecture.logits_scale != 1:
            steps.append(("Mul", np.array(architecture.logits_scale, np.float32)))
        if architecture.logits_softcap:
            cap = np.array(architecture.logits_softcap, np.float32)
            steps += [("Div", cap), ("Tanh", cap), ("Mul", cap)]
        names = [*(f"logits.{number}" for number in range(len(steps))), "logits"]
        if self._head_factors is not None:
            hidden = self._divided_by_head_factors(hidden)
        if architecture.is_tied:
            nodes.shared_product(hidden, family.embedding, shape, names[0])
        else:
            matrix = self._modules.take(f"{family.head}.weight", *shape)
            if self._head_factors is not None:
                matrix = matrix * self._head_factors
            nodes.linear(hidden, matrix, None, family.head, names[0])
        for (kind, value), given, output in zip(steps, names[:-1], names[1:], strict=True):
            inputs = (
                [given] if kind == "Tanh" else [given, nodes.constant(f"{output}.{kind}", value)]
            )
            nodes.add(kind, inputs, [output])

    def _inputs(self, state: Sequence[StateTensor]) -> list[onnx.ValueInfoProto]:
        declared: dict[str, tuple[int, list[str | int]]] = {
            "input_ids": (TensorProto.INT64, ["T"]),
            "pad_index": (TensorProto.INT64, ["B", "S"]),
            "unpad_index": (TensorProto.INT64, ["T"]),
            "query_seqlens": (TensorProto.INT32, ["B"]),
            "seqlens_k": (TensorProto.INT32, ["B"]),
            "total_len": (TensorProto.INT32, [1]),
            "logits_index": (TensorProto.INT64, ["R"]),
        }
        packed = [helper.make_tensor_value_info(name, *value) for name, value in declared.items()]
        return packed + [_declare(tensor.input, tensor) for tensor in state]

    def _outputs(self, state: Sequence[StateTensor], embeddings: bool) -> list[onnx.ValueInfoProto]:
        rows = {"logits": self._architecture.vocab_size}
        if embeddings:
            rows[HIDDEN_STATES] = self._architecture.n_embd
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["R", width])
            for name, width in rows.items()
        ]
        return outputs + [_declare(tensor.output, tensor) for tensor in state]


def _declare(name: str, tensor: StateTensor) -> onnx.ValueInfoProto:
    shape = ["B", *("C" if axis == "capacity" else axis for axis in tensor.shape)]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    return helper.make_tensor_value_info(name, kind, shape)
