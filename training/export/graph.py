"""The ONNX graph of a decoder: one graph for prefill and decode, over packed tokens.

Every linear layer sees the packed tokens [T] of all rows; only the attention sees the padded shape
[B, S], through `pad_index` and `unpad_index`. The cache is updated in place when the caller binds
`past_key_values.*` and `present.*` to the same memory. Only the positions of `logits_index` go
through the final norm and the head.

Shapes: T packed new tokens, B rows, S widest row's new tokens, C cache capacity, R wanted logits,
D model width, H query heads, G key/value heads, K head width, F feed-forward width, V vocabulary.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from everloop.errors import ArtifactError
from training.export.families import Architecture
from training.export.nodes import CONTRIB, Nodes, Precision
from training.export.quantize import BLOCK_SIZE
from training.export.weights import Weights

MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
_EXTERNAL_BYTES = 1024  # smaller tensors stay inside model.onnx


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
    model = _Decoder(architecture, weights, precision).build(positions)
    weights.refuse_leftovers(*([f"{architecture.family.head}.weight"] * architecture.is_tied))
    for name in (MODEL_FILE, DATA_FILE):
        (folder / name).unlink(missing_ok=True)  # onnx appends to a data file that exists
    onnx.save_model(
        model,
        str(folder / MODEL_FILE),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=DATA_FILE,
        size_threshold=_EXTERNAL_BYTES,
    )
    return folder / MODEL_FILE


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


class _Decoder:
    """Writes the layers of one checkpoint into nodes."""

    def __init__(self, architecture: Architecture, weights: Weights, precision: Precision) -> None:
        self._arch = architecture
        self._weights = weights
        self._nodes = Nodes(precision)

    def build(self, positions: int) -> onnx.ModelProto:
        arch, family, nodes = self._arch, self._arch.family, self._nodes
        cosines, sines = arch.rotary_table(positions)
        nodes.constant("cos_cache", cosines)  # (positions, K / 2)
        nodes.constant("sin_cache", sines)
        table = self._weights.take(f"{family.embedding}.weight", (arch.vocab_size, arch.n_embd))
        residual = nodes.embedding(table, family.embedding, "input_ids", "embedding")  # (T, D)
        first = self._name(0, family.attention_norm)
        normed = nodes.rms_norm(residual, self._norm(first), arch.norm_epsilon, first)
        for layer in range(arch.n_layer):
            attention = self._attention(layer, normed)  # (T, D)
            norm = self._name(layer, family.mlp_norm)
            normed, residual = self._add_and_norm(residual, attention, norm)
            mlp = self._mlp(layer, normed)  # (T, D)
            if layer == arch.n_layer - 1:
                residual = nodes.gather(residual, "logits_index", "wanted.residual")  # (R, D)
                mlp = nodes.gather(mlp, "logits_index", "wanted.mlp")  # (R, D)
                norm = family.final_norm
            else:
                norm = self._name(layer + 1, family.attention_norm)
            normed, residual = self._add_and_norm(residual, mlp, norm)
        self._head(normed)  # (R, V)
        return nodes.model(arch.model_type, self._inputs(), self._outputs())

    def _attention(self, layer: int, hidden: str) -> str:
        arch, family, nodes = self._arch, self._arch.family, self._nodes
        prefix = f"layers.{layer}.attention"
        query_width, key_width = arch.n_head * arch.head_dim, arch.n_kv_head * arch.head_dim
        modules = {family.query: query_width, family.key: key_width, family.value: key_width}
        qkv = self._linear(layer, hidden, modules, arch.n_embd, f"{prefix}.qkv")  # (T, (H + 2G) K)
        if family.query_norm and family.key_norm:
            qkv = self._normalize_heads(layer, qkv, (family.query_norm, family.key_norm))
        padded = nodes.gather(qkv, "pad_index", f"{prefix}.padded")  # (B, S, (H + 2G) K)
        (past_key, present_key), (past_value, present_value) = state_names(layer)
        inputs = [padded, "", "", past_key, past_value, "seqlens_k", "total_len"]
        inputs += ["cos_cache", "sin_cache", *[""] * 7, "query_seqlens"]
        attended = nodes.add(
            "GroupQueryAttention",
            inputs,
            [prefix, present_key, present_value],
            domain=CONTRIB,
            num_heads=arch.n_head,
            kv_num_heads=arch.n_kv_head,
            scale=arch.head_dim**-0.5,
            do_rotary=1,
            rotary_interleaved=0,
            local_window_size=-1,
        )  # (B, S, H K)
        rows = nodes.reshape(attended, [-1, query_width], f"{prefix}.rows")  # (B S, H K)
        packed = nodes.gather(rows, "unpad_index", f"{prefix}.packed")  # (T, H K)
        output = {family.attention_output: arch.n_embd}
        return self._linear(layer, packed, output, query_width, f"{prefix}.output")  # (T, D)

    def _normalize_heads(self, layer: int, qkv: str, norms: tuple[str, str]) -> str:
        """Normalize query and key heads before their rotation; the operator's own input for it is
        not honoured on the CPU.
        """
        arch, nodes, prefix = self._arch, self._nodes, f"layers.{layer}.heads"
        counts = [arch.n_head, arch.n_kv_head, arch.n_kv_head]
        heads = nodes.reshape(qkv, [-1, sum(counts), arch.head_dim], prefix)  # (T, H + 2G, K)
        sizes = nodes.constant("head_counts", np.array(counts, np.int64))
        query, key, value = (f"{prefix}.{part}" for part in ("query", "key", "value"))
        nodes.add("Split", [heads, sizes], [query, key, value], axis=1)  # (T, H, K), 2 (T, G, K)
        normed = [
            nodes.rms_norm(
                part,
                self._norm(self._name(layer, norm), arch.head_dim),
                arch.norm_epsilon,
                f"{part}_norm",
            )
            for part, norm in zip((query, key), norms, strict=True)
        ]
        joined = nodes.add("Concat", [*normed, value], [f"{prefix}.joined"], axis=1)
        width = sum(counts) * arch.head_dim
        return nodes.reshape(joined, [-1, width], f"{prefix}.qkv")  # (T, (H + 2G) K)

    def _mlp(self, layer: int, hidden: str) -> str:
        arch, family, nodes, prefix = self._arch, self._arch.family, self._nodes, f"layers.{layer}"
        modules = {family.gate: arch.n_ff, family.up: arch.n_ff}
        both = self._linear(layer, hidden, modules, arch.n_embd, f"{prefix}.gate_up")  # (T, 2F)
        gate, up = f"{prefix}.gate", f"{prefix}.up"
        nodes.add("Split", [both], [gate, up], axis=-1, num_outputs=2)  # (T, F) twice
        # QuickGelu with alpha 1 is SiLU in one node.
        active = nodes.add("QuickGelu", [gate], [f"{gate}.active"], domain=CONTRIB, alpha=1.0)
        gated = nodes.add("Mul", [active, up], [f"{prefix}.gated"])
        output = {family.down: arch.n_embd}
        return self._linear(layer, gated, output, arch.n_ff, f"{prefix}.mlp")  # (T, D)

    def _head(self, hidden: str) -> None:
        arch, family = self._arch, self._arch.family
        shape = (arch.vocab_size, arch.n_embd)
        if arch.is_tied:
            self._nodes.shared_product(hidden, family.embedding, shape, "logits")
        else:
            matrix = self._weights.take(f"{family.head}.weight", shape)
            self._nodes.linear(hidden, matrix, None, family.head, "logits")

    def _linear(self, layer: int, x: str, modules: dict[str, int], width: int, output: str) -> str:
        """Apply modules of one input width as one product; `modules`: name to outputs."""
        names = {self._name(layer, module): outputs for module, outputs in modules.items()}
        take, has = self._weights.take, self._weights.has
        matrix = np.concatenate([take(f"{name}.weight", (n, width)) for name, n in names.items()])
        bias = None
        if any(has(f"{name}.bias") for name in names):
            bias = np.concatenate([take(f"{name}.bias", (n,)) for name, n in names.items()])
        return self._nodes.linear(x, matrix, bias, f"{output}.weight", output)

    def _add_and_norm(self, residual: str, update: str, norm: str) -> tuple[str, str]:
        return self._nodes.add_and_rms_norm(
            residual, update, self._norm(norm), self._arch.norm_epsilon, norm
        )

    def _norm(self, module: str, width: int | None = None) -> str:
        name = f"{module}.weight"
        return self._nodes.constant(name, self._weights.take(name, (width or self._arch.n_embd,)))

    def _name(self, layer: int, module: str) -> str:
        return f"{self._arch.family.layer.format(layer=layer)}.{module}"

    def _inputs(self) -> list[onnx.ValueInfoProto]:
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
        return packed + [self._cache(past) for past, _ in self._states()]

    def _outputs(self) -> list[onnx.ValueInfoProto]:
        shape: list[str | int] = ["R", self._arch.vocab_size]
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)
        return [logits] + [self._cache(present) for _, present in self._states()]

    def _states(self) -> list[tuple[str, str]]:
        return [names for layer in range(self._arch.n_layer) for names in state_names(layer)]

    def _cache(self, name: str) -> onnx.ValueInfoProto:
        shape: list[str | int] = ["B", self._arch.n_kv_head, "C", self._arch.head_dim]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
