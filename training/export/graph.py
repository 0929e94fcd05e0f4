"""The ONNX graph of a decoder: one graph for prefill and decode, over packed tokens.

Every linear layer sees the packed tokens [T] of all rows; only the attention sees the padded shape
[B, S], through `pad_index` and `unpad_index`. The cache is updated in place when the caller binds
`past_key_values.*` and `present.*` to the same memory. Only the positions of `logits_index` go
through the final norm and the head.

Shapes: T packed new tokens, B rows, S widest row's new tokens, C cache capacity, R wanted logits,
D model width, H query heads, G key/value heads, K head width, F feed-forward width, V vocabulary.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from everloop.errors import ArtifactError
from training.export.families import Architecture
from training.export.quantize import BITS, BLOCK_SIZE, quantize
from training.export.weights import Weights

MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
OPSET = 21  # of the standard operators
IR_VERSION = 10
_CONTRIB = "com.microsoft"
_INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level

Precision = Literal["fp32", "int8"]


def state_names(layer: int) -> list[tuple[str, str]]:
    """Input and output names of a layer's cache: keys, then values."""
    return [
        (f"past_key_values.{layer}.{part}", f"present.{layer}.{part}") for part in ("key", "value")
    ]


def write_graph(
    architecture: Architecture,
    weights: Weights,
    folder: Path,
    *,
    precision: Precision,
    positions: int,
) -> Path:
    """Write model.onnx and model.onnx.data.

    Args:
        architecture: names and sizes.
        weights: the checkpoint's tensors.
        folder: exists; files of the same names are replaced.
        precision: of the weights of the linear layers and the embedding table.
        positions: rows of the rotary table, max_model_len + max_query_len.

    Raises:
        ArtifactError: a tensor is missing, of another shape or left over, or a width does not
            divide into int8 blocks.
    """
    if precision == "int8":
        _check_widths(architecture)
    model = _Builder(architecture, weights, precision, positions).build()
    weights.refuse_leftovers(f"{architecture.family.head}.weight")
    path = folder / MODEL_FILE
    for name in (MODEL_FILE, DATA_FILE):
        (folder / name).unlink(missing_ok=True)
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=DATA_FILE,
        size_threshold=1024,
    )
    return path


def _check_widths(architecture: Architecture) -> None:
    widths = {
        "hidden_size": architecture.n_embd,
        "num_attention_heads * head_dim": architecture.n_head * architecture.head_dim,
        "intermediate_size": architecture.n_ff,
    }
    for name, width in widths.items():
        if width % BLOCK_SIZE:
            raise ArtifactError(
                f"{architecture.family.architecture}: int8 needs {name} divisible by {BLOCK_SIZE}, "
                f"got {width}. Export with precision fp32, or train another size."
            )


class _Builder:
    """Collects the nodes and initializers of one graph."""

    def __init__(
        self, architecture: Architecture, weights: Weights, precision: Precision, positions: int
    ) -> None:
        self._arch = architecture
        self._weights = weights
        self._precision = precision
        self._positions = positions
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []

    def build(self) -> onnx.ModelProto:
        """Assemble the whole model."""
        arch = self._arch
        cosines, sines = arch.rotary_table(self._positions)
        self._constant("cos_cache", cosines)
        self._constant("sin_cache", sines)
        hidden = self._embed()  # (T, D)
        residual = hidden
        normed = self._op(
            "SimplifiedLayerNormalization",
            [hidden, self._norm_weight(self._name(0, arch.family.attention_norm), arch.n_embd)],
            ["layer.0.attention_norm"],
            axis=-1,
            epsilon=arch.norm_epsilon,
            stash_type=1,
        )
        for layer in range(arch.n_layer):
            attention = self._attention(layer, normed)  # (T, D)
            normed, residual = self._add_and_norm(
                residual, attention, self._name(layer, arch.family.mlp_norm)
            )
            mlp = self._mlp(layer, normed)  # (T, D)
            if layer == arch.n_layer - 1:
                residual = self._gather(residual, "logits_index", "final.residual")  # (R, D)
                mlp = self._gather(mlp, "logits_index", "final.mlp")  # (R, D)
                following = arch.family.final_norm
            else:
                following = self._name(layer + 1, arch.family.attention_norm)
            normed, residual = self._add_and_norm(residual, mlp, following)
        self._head(normed)  # (R, V)
        graph = helper.make_graph(
            self._nodes, arch.model_type, self._inputs(), self._outputs(), self._initializers
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(_CONTRIB, 1)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="everloop"
        )

    def _inputs(self) -> list[onnx.ValueInfoProto]:
        declared: list[tuple[str, int, list[str | int]]] = [
            ("input_ids", TensorProto.INT64, ["T"]),
            ("pad_index", TensorProto.INT64, ["B", "S"]),
            ("unpad_index", TensorProto.INT64, ["T"]),
            ("query_seqlens", TensorProto.INT32, ["B"]),
            ("seqlens_k", TensorProto.INT32, ["B"]),
            ("total_len", TensorProto.INT32, [1]),
            ("logits_index", TensorProto.INT64, ["R"]),
        ]
        inputs = [helper.make_tensor_value_info(*values) for values in declared]
        return inputs + [self._cache(past) for past, _ in self._states()]

    def _outputs(self) -> list[onnx.ValueInfoProto]:
        shape = ["R", self._arch.vocab_size]
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)
        return [logits] + [self._cache(present) for _, present in self._states()]

    def _states(self) -> list[tuple[str, str]]:
        return [names for layer in range(self._arch.n_layer) for names in state_names(layer)]

    def _cache(self, name: str) -> onnx.ValueInfoProto:
        shape = ["B", self._arch.n_kv_head, "C", self._arch.head_dim]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    def _embed(self) -> str:
        arch = self._arch
        name = f"{arch.family.embedding}.weight"
        table = self._weights.take(name, (arch.vocab_size, arch.n_embd))
        if self._precision == "fp32":
            return self._gather(self._constant(name, table), "input_ids", "embedding")
        values, scales = self._quantized(name, table)
        flat_shape = self._constant(f"{name}.shape", np.array([arch.vocab_size, -1], np.int64))
        flat = self._op("Reshape", [values, flat_shape], [f"{name}.flat"])  # (V, D)
        return self._op(
            "GatherBlockQuantized",
            [flat, "input_ids", scales],
            ["embedding"],
            domain=_CONTRIB,
            bits=BITS,
            block_size=BLOCK_SIZE,
            quantize_axis=1,
            gather_axis=0,
        )

    def _attention(self, layer: int, hidden: str) -> str:
        arch, family = self._arch, self._arch.family
        prefix = f"layer.{layer}"
        qkv = self._linear(
            hidden,
            {
                self._name(layer, family.query): arch.n_head * arch.head_dim,
                self._name(layer, family.key): arch.n_kv_head * arch.head_dim,
                self._name(layer, family.value): arch.n_kv_head * arch.head_dim,
            },
            arch.n_embd,
            f"{prefix}.qkv",
        )  # (T, (H + 2G) K)
        if family.query_norm and family.key_norm:
            qkv = self._normalize_heads(layer, qkv, family.query_norm, family.key_norm)
        padded = self._gather(qkv, "pad_index", f"{prefix}.qkv_padded")  # (B, S, (H + 2G) K)
        (past_key, present_key), (past_value, present_value) = state_names(layer)
        attended = self._op(
            "GroupQueryAttention",
            [padded, "", "", past_key, past_value, "seqlens_k", "total_len"]
            + ["cos_cache", "sin_cache", *[""] * 7, "query_seqlens"],
            [f"{prefix}.attention", present_key, present_value],
            domain=_CONTRIB,
            num_heads=arch.n_head,
            kv_num_heads=arch.n_kv_head,
            scale=arch.head_dim**-0.5,
            do_rotary=1,
            rotary_interleaved=0,
            local_window_size=-1,
        )  # (B, S, H K)
        width = arch.n_head * arch.head_dim
        rows = self._reshape(attended, [-1, width], f"{prefix}.attention_rows")  # (B S, H K)
        packed = self._gather(rows, "unpad_index", f"{prefix}.attention_packed")  # (T, H K)
        output = {self._name(layer, family.attention_output): arch.n_embd}
        return self._linear(packed, output, width, f"{prefix}.attention_output")

    def _normalize_heads(self, layer: int, qkv: str, query_norm: str, key_norm: str) -> str:
        """Normalize each query and key head before the rotation, as Qwen3 does."""
        arch, prefix = self._arch, f"layer.{layer}"
        counts = [arch.n_head, arch.n_kv_head, arch.n_kv_head]
        heads = self._reshape(qkv, [-1, sum(counts), arch.head_dim], f"{prefix}.heads")
        names = [f"{prefix}.{part}" for part in ("query", "key", "value")]
        sizes = self._shape("head_counts", counts)
        self._op("Split", [heads, sizes], names, axis=1)  # (T, H, K), (T, G, K), (T, G, K)
        normed = [
            self._op(
                "SimplifiedLayerNormalization",
                [name, self._norm_weight(self._name(layer, norm), arch.head_dim)],
                [f"{name}_norm"],
                axis=-1,
                epsilon=arch.norm_epsilon,
                stash_type=1,
            )
            for name, norm in zip(names[:2], (query_norm, key_norm), strict=True)
        ]
        joined = self._op("Concat", [*normed, names[2]], [f"{prefix}.heads_norm"], axis=1)
        return self._reshape(joined, [-1, sum(counts) * arch.head_dim], f"{prefix}.qkv_norm")

    def _mlp(self, layer: int, hidden: str) -> str:
        arch, family, prefix = self._arch, self._arch.family, f"layer.{layer}"
        both = {
            self._name(layer, family.gate): arch.n_ff,
            self._name(layer, family.up): arch.n_ff,
        }
        gate_up = self._linear(hidden, both, arch.n_embd, f"{prefix}.gate_up")  # (T, 2F)
        gate, up = f"{prefix}.gate", f"{prefix}.up"
        self._op("Split", [gate_up], [gate, up], axis=-1, num_outputs=2)  # (T, F) twice
        # QuickGelu with alpha 1 is SiLU in one node.
        active = self._op("QuickGelu", [gate], [f"{gate}.active"], domain=_CONTRIB, alpha=1.0)
        gated = self._op("Mul", [active, up], [f"{prefix}.gated"])
        down = {self._name(layer, family.down): arch.n_embd}
        return self._linear(gated, down, arch.n_ff, f"{prefix}.down")  # (T, D)

    def _head(self, hidden: str) -> None:
        arch = self._arch
        if not arch.is_tied:
            self._linear(hidden, {arch.family.head: arch.vocab_size}, arch.n_embd, "logits")
            return
        table = f"{arch.family.embedding}.weight"
        if self._precision == "fp32":
            self._op("Gemm", [hidden, table], ["logits"], transB=1)
        else:
            self._quantized_matmul(hidden, table, (arch.vocab_size, arch.n_embd), "logits")

    def _linear(self, x: str, modules: dict[str, int], width: int, name: str) -> str:
        """Apply linear modules of equal input width as one product; `modules`: name to outputs."""
        parts = [
            self._weights.take(f"{module}.weight", (outputs, width))
            for module, outputs in modules.items()
        ]
        matrix = np.concatenate(parts)  # (outputs, width)
        biases = [f"{module}.bias" for module in modules]
        has_bias = any(self._weights.has(bias) for bias in biases)
        output = f"{name}.product" if has_bias else name
        if self._precision == "fp32":
            self._op("MatMul", [x, self._constant(f"{name}.weight", matrix.T)], [output])
        else:
            self._quantized(f"{name}.weight", matrix)
            self._quantized_matmul(x, f"{name}.weight", matrix.shape, output)
        if not has_bias:
            return output
        bias = np.concatenate(
            [
                self._weights.take(bias, (outputs,))
                for bias, outputs in zip(biases, modules.values(), strict=True)
            ]
        )
        return self._op("Add", [output, self._constant(f"{name}.bias", bias)], [name])

    def _quantized(self, name: str, matrix: np.ndarray) -> tuple[str, str]:
        blocks = quantize(matrix)
        return (
            self._constant(f"{name}.values", blocks.values),
            self._constant(f"{name}.scales", blocks.scales),
        )

    def _quantized_matmul(self, x: str, matrix: str, shape: tuple[int, ...], output: str) -> str:
        return self._op(
            "MatMulNBits",
            [x, f"{matrix}.values", f"{matrix}.scales"],
            [output],
            domain=_CONTRIB,
            N=shape[0],
            K=shape[1],
            bits=BITS,
            block_size=BLOCK_SIZE,
            accuracy_level=_INT8_ACTIVATIONS,
        )

    def _add_and_norm(self, residual: str, update: str, norm: str) -> tuple[str, str]:
        """Add an update to the residual stream; give the normalized sum and the sum."""
        normed, total = f"{norm}.output", f"{norm}.residual"
        self._op(
            "SkipSimplifiedLayerNormalization",
            [residual, update, self._norm_weight(norm, self._arch.n_embd)],
            [normed, "", "", total],
            domain=_CONTRIB,
            epsilon=self._arch.norm_epsilon,
        )
        return normed, total

    def _name(self, layer: int, module: str) -> str:
        return f"{self._arch.family.layer.format(layer=layer)}.{module}"

    def _norm_weight(self, module: str, width: int) -> str:
        name = f"{module}.weight"
        return self._constant(name, self._weights.take(name, (width,)))

    def _gather(self, values: str, index: str, output: str) -> str:
        return self._op("Gather", [values, index], [output], axis=0)

    def _reshape(self, values: str, shape: list[int], output: str) -> str:
        return self._op("Reshape", [values, self._shape(f"{output}.shape", shape)], [output])

    def _shape(self, name: str, shape: list[int]) -> str:
        if name == "head_counts" and any(item.name == name for item in self._initializers):
            return name
        return self._constant(name, np.array(shape, np.int64))

    def _constant(self, name: str, value: np.ndarray) -> str:
        self._initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _op(
        self,
        kind: str,
        inputs: list[str],
        outputs: list[str],
        domain: str = "",
        **attributes: int | float,
    ) -> str:
        name = f"{outputs[0]}/{kind}"
        node = helper.make_node(kind, inputs, outputs, name=name, domain=domain, **attributes)
        self._nodes.append(node)
        return outputs[0]
