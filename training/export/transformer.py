"""The layers of a Transformer: norm, attention, norm, MLP, each added to the residual.

Only the positions of `logits_index` go through the final norm. Shapes as in `graph.py`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from training.export.architecture import Attention
from training.export.attention import AttentionWriter
from training.export.modules import Modules
from training.export.nodes import CONTRIB


class _Operator(NamedTuple):
    kind: str
    domain: str
    attributes: Mapping[str, Any]


_ACTIVATIONS = {
    "silu": _Operator("QuickGelu", CONTRIB, {"alpha": 1.0}),  # the same function in one node
    "quick_gelu": _Operator("QuickGelu", CONTRIB, {"alpha": 1.702}),
    "gelu": _Operator("Gelu", "", {}),
    "gelu_tanh": _Operator("Gelu", "", {"approximate": "tanh"}),
    "relu": _Operator("Relu", "", {}),
}


class TransformerWriter:
    """Writes every layer of one checkpoint.

    Args:
        modules: of the checkpoint.
        body: its attention and MLP.
        positions: rows of the rotary tables.
    """

    def __init__(self, modules: Modules, body: Attention, positions: int) -> None:
        self._modules = modules
        self._body = body
        self._attention = AttentionWriter(modules, body, positions)

    def write(self, hidden: str, output: str) -> str:
        """Run the layers on the embedding (T, D); give the normalized rows `output` (R, D)."""
        modules, family = self._modules, self._modules.architecture.family
        last = self._modules.architecture.n_layer - 1
        first = modules.name(0, family.attention_norm)
        residual, normed = hidden, modules.norm(hidden, first, first)
        for layer in range(last + 1):
            attended = self._attention.write(layer, normed)  # (T, D)
            attended = self._post_norm(layer, attended, family.attention_post_norm)
            norm = modules.name(layer, family.mlp_norm)
            normed, residual = modules.add_and_norm(residual, attended, norm, norm)
            mlp = self._post_norm(layer, self._mlp(layer, normed), family.mlp_post_norm)  # (T, D)
            if layer < last:
                norm = modules.name(layer + 1, family.attention_norm)
                normed, residual = modules.add_and_norm(residual, mlp, norm, norm)
        residual = modules.nodes.gather(residual, "logits_index", "wanted.residual")  # (R, D)
        mlp = modules.nodes.gather(mlp, "logits_index", "wanted.mlp")  # (R, D)
        return modules.add_and_norm(residual, mlp, family.final_norm, output)[0]

    def _post_norm(self, layer: int, update: str, norm: str | None) -> str:
        if norm is None:
            return update
        name = self._modules.name(layer, norm)
        return self._modules.norm(update, name, name)

    def _mlp(self, layer: int, hidden: str) -> str:
        modules, nodes, prefix = self._modules, self._modules.nodes, f"layers.{layer}"
        family, n_embd, n_ff = (
            modules.architecture.family,
            modules.architecture.n_embd,
            self._body.n_ff,
        )
        width = n_ff * (1 + family.is_gated)
        inputs = {
            modules.name(layer, name): width // len(family.gate_up) for name in family.gate_up
        }
        active = modules.linear(hidden, inputs, n_embd, f"{prefix}.gate_up")  # (T, F) or (T, 2F)
        if family.is_gated:
            gate, up = f"{prefix}.gate", f"{prefix}.up"
            nodes.add("Split", [active], [gate, up], axis=-1, num_outputs=2)  # (T, F) twice
            active = nodes.add("Mul", [self._activate(gate), up], [f"{prefix}.gated"])
        else:
            active = self._activate(active)
        down = {modules.name(layer, family.down): n_embd}
        return modules.linear(active, down, n_ff, f"{prefix}.mlp")  # (T, D)

    def _activate(self, x: str) -> str:
        kind, domain, attributes = _ACTIVATIONS[self._body.activation]
        return self._modules.nodes.add(kind, [x], [f"{x}.active"], domain=domain, **attributes)
