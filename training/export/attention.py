"""The attention of one layer, over packed tokens.

Linear layers and norms see the packed tokens (T, …); only the attention operator sees the padded
shape (B, S, …). Shapes as in `graph.py`.

The scale of the scores is in the weights of the queries. ONNX Runtime multiplies the query of one
token with the keys by a matrix-vector kernel only where nothing is left to scale; else it packs
all keys anew for every head.
"""

import numpy as np

from training.export.architecture import Attention
from training.export.heads import place
from training.export.modules import Modules
from training.export.nodes import CONTRIB
from training.export.state import layer_state


class AttentionWriter:
    """Writes the attention of every layer.

    Args:
        modules: of the checkpoint.
        body: its attention.
        positions: tokens of the longest row; rows of the rotary tables.
    """

    def __init__(self, modules: Modules, body: Attention, positions: int) -> None:
        self._modules = modules
        self._body = body
        self._positions = positions
        for kind in dict.fromkeys(layer.rotary for layer in body.layers):
            if kind is not None:
                cosines, sines = body.rotaries[kind].table(positions, body.head.padded_pairs)
                modules.nodes.constant(_table(kind, "cos"), cosines)  # (positions, pairs)
                modules.nodes.constant(_table(kind, "sin"), sines)

    def write(self, layer: int, hidden: str) -> str:
        """Attend from the normalized tokens (T, D); give the update of the residual (T, D)."""
        body, nodes, prefix = self._body, self._modules.nodes, f"layers.{layer}.attention"
        family, width = self._modules.architecture.family, self._modules.architecture.n_embd
        query_width = body.n_head * body.head_dim
        qkv = self._query_key_value(layer, hidden, f"{prefix}.qkv")  # (T, (H + 2G) K)
        if family.query_norm and family.key_norm:
            qkv = self._normalize_heads(layer, qkv, (family.query_norm, family.key_norm))
        padded = nodes.gather(qkv, "pad_index", f"{prefix}.padded")  # (B, S, (H + 2G) K)
        attended = self._attend(layer, padded, prefix)  # (B, S, H K)
        rows = nodes.reshape(attended, [-1, query_width], f"{prefix}.rows")  # (B S, H K)
        packed = nodes.gather(rows, "unpad_index", f"{prefix}.packed")  # (T, H K)
        return self._modules.linear(
            packed,
            {self._modules.name(layer, family.attention_output): width},
            body.n_head * body.head.stored,
            f"{prefix}.output",
            scale=self._modules.architecture.residual_scale,
            columns=self._output_columns(),
        )  # (T, D)

    def _query_key_value(self, layer: int, hidden: str, output: str) -> str:
        architecture = self._modules.architecture
        widths = [heads * self._body.head.stored for heads in self._heads]
        names = architecture.family.query_key_value
        if len(names) == 1:
            widths = [sum(widths)]
        modules = {
            self._modules.name(layer, name): width
            for name, width in zip(names, widths, strict=True)
        }
        return self._modules.linear(
            hidden,
            modules,
            architecture.n_embd,
            output,
            scale=self._query_key_value_scale(layer),
            rows=self._query_key_value_rows(),
        )

    def _query_key_value_scale(self, layer: int) -> np.ndarray:
        """The scores' scale for the columns of the queries; a norm behind them has it otherwise."""
        body = self._body
        scale = np.ones(sum(self._heads) * body.head_dim, np.float32)
        if not self._modules.architecture.family.query_norm:
            scale[: body.n_head * body.head_dim] = body.layers[layer].scale
        return scale

    def _query_key_value_rows(self) -> np.ndarray | None:
        """Rows of the checkpoint in the operator's order: all queries, all keys, all values."""
        head = self._body.head
        starts = np.arange(sum(self._heads)) * head.stored
        if self._modules.architecture.family.interleaves_heads:
            starts = starts.reshape(-1, 3).T.reshape(-1)
        queries_and_keys = self._body.n_head + self._body.n_kv_head
        rows = [
            place(starts[:queries_and_keys], head.query_places()),
            place(starts[queries_and_keys:], head.value_places()),
        ]
        return _unless_in_order(np.concatenate(rows))

    def _output_columns(self) -> np.ndarray | None:
        head = self._body.head
        starts = np.arange(self._body.n_head) * head.stored
        return _unless_in_order(place(starts, head.value_places()))

    def _normalize_heads(self, layer: int, qkv: str, norms: tuple[str, str]) -> str:
        """Normalize query and key heads before their rotation; the operator's own input for it is
        not honoured on the CPU.
        """
        modules, nodes, prefix = self._modules, self._modules.nodes, f"layers.{layer}.heads"
        head_dim = self._body.head_dim
        together = modules.architecture.family.normalizes_heads_together
        unit = head_dim if together else 1  # of the axis that is split
        parts, query, key, value = prefix, *(f"{prefix}.{part}" for part in ("q", "k", "v"))
        if together:
            parts = qkv  # (T, (H + 2G) K)
        else:
            nodes.reshape(qkv, [-1, sum(self._heads), head_dim], parts)  # (T, H + 2G, K)
        sizes = nodes.constant("head_sizes", np.array(self._heads, np.int64) * unit)
        nodes.add("Split", [parts, sizes], [query, key, value], axis=1)
        scales = (self._body.layers[layer].scale, 1.0)
        normed = [
            modules.rms_norm(
                part,
                modules.name(layer, norm),
                heads * head_dim if together else head_dim,
                f"{part}.norm",
                scale,
            )
            for part, norm, heads, scale in zip(
                (query, key), norms, self._heads[:2], scales, strict=True
            )
        ]
        joined = nodes.add("Concat", [*normed, value], [f"{prefix}.joined"], axis=1)
        if together:
            return joined
        return nodes.reshape(joined, [-1, sum(self._heads) * head_dim], f"{prefix}.qkv")

    def _attend(self, layer: int, padded: str, output: str) -> str:
        body, settings = self._body, self._body.layers[layer]
        key, value = layer_state(self._modules.architecture, layer)
        inputs = [padded, "", "", key.input, value.input, "seqlens_k", "total_len"]
        rotary, window = settings.rotary, settings.window
        if window is None or window >= self._positions:
            window = -1  # the operator's word for none
        inputs += ["", ""] if rotary is None else [_table(rotary, "cos"), _table(rotary, "sin")]
        inputs += [*[""] * 7, "query_seqlens"]
        return self._modules.nodes.add(
            "GroupQueryAttention",
            inputs,
            [output, key.output, value.output],
            domain=CONTRIB,
            num_heads=body.n_head,
            kv_num_heads=body.n_kv_head,
            scale=1.0,
            softcap=body.softcap,
            do_rotary=int(rotary is not None),
            rotary_interleaved=0,
            local_window_size=window,
        )

    @property
    def _heads(self) -> list[int]:
        return [self._body.n_head, self._body.n_kv_head, self._body.n_kv_head]


def _table(kind: str, part: str) -> str:
    return f"rotary.{kind}.{part}" if kind else f"rotary.{part}"


def _unless_in_order(places: np.ndarray) -> np.ndarray | None:
    return None if np.array_equal(places, np.arange(len(places))) else places
