"""The feed-forward part of one layer, gated or plain; shapes as in `graph.py`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from training.export.architecture import Attention
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


def write_mlp(modules: Modules, body: Attention, layer: int, hidden: str) -> str:
    """Transform the normalized tokens (T, D); give the update of the residual (T, D)."""
    nodes, architecture, prefix = modules.nodes, modules.architecture, f"layers.{layer}"
    family = architecture.family
    width = body.n_ff * (1 + family.is_gated)
    inputs = {modules.name(layer, name): width // len(family.gate_up) for name in family.gate_up}
    active = modules.linear(
        hidden, inputs, architecture.n_embd, f"{prefix}.gate_up"
    )  # (T, F or 2F)
    kind, domain, attributes = _ACTIVATIONS[body.activation]
    if family.is_gated:
        gate, up = f"{prefix}.gate", f"{prefix}.up"
        nodes.add("Split", [active], [gate, up], axis=-1, num_outputs=2)  # (T, F) twice
        gate = nodes.add(kind, [gate], [f"{gate}.active"], domain=domain, **attributes)
        active = nodes.add("Mul", [gate, up], [f"{prefix}.gated"])
    else:
        active = nodes.add(kind, [active], [f"{prefix}.active"], domain=domain, **attributes)
    down = {modules.name(layer, family.down): architecture.n_embd}
    scale = architecture.residual_scale
    return modules.linear(active, down, body.n_ff, f"{prefix}.mlp", scale=scale)  # (T, D)
