"""Channels of activations and weights brought to like sizes, so that both lose less by 8 bits.

A product with quantized weights rounds its inputs, too: 32 of them share a scale, so that one large
channel costs its neighbours. Dividing a channel of the input by a factor and multiplying the
matrix's column by it changes no product. The factor that splits the burden evenly is the square
root of the channel's size in the input over its size in the matrix. The division costs nothing
where what gives the input takes it into its own weights: a norm, or the upper half of a gated MLP.

Source: Xiao et al., SmoothQuant, 2023, arXiv:2211.10438, equation 4 with alpha = 0.5; the size of
an input channel is its root mean square here, not its maximum (docs/decisions.md).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from training.export.architecture import Architecture, Attention
from training.export.input_moments import product_inputs, weighted_products

_MAX_TOKENS = 1024  # a channel's size is known well enough after these
# Of the mean size of all channels: what is silent on these texts may speak on others.
_LEAST_SHARE = 1e-3


@dataclass(frozen=True, slots=True)
class Equalization:
    """Factors by channel; without any, a graph is as its checkpoint.

    Attributes:
        inputs: product to what the columns of its matrix are multiplied by, float32 [K].
        outputs: norm or product to what its outputs are divided by, float32.
    """

    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    outputs: Mapping[str, np.ndarray] = field(default_factory=dict)


NO_EQUALIZATION = Equalization()


@dataclass(frozen=True, slots=True)
class _Group:
    """Products with one input, and what gives it; the head divides its own input."""

    products: tuple[str, ...]
    producer: str | None
    untouched: int = 0  # outputs of the producer before those that are divided


def equalize(architecture: Architecture, graph: Path, windows: np.ndarray) -> Equalization:
    """Measure the sizes of channels and choose the factors.

    Args:
        architecture: of the checkpoint.
        graph: its fp32 graph.
        windows: token ids [N, context + 1] of real text.
    """
    model = onnx.load_model(str(graph), load_external_data=False)
    products = weighted_products(model.graph)
    groups = [group for group in _groups(architecture) if set(group.products) <= set(products)]
    tensors = {products[group.products[0]].input for group in groups}
    count = max(1, _MAX_TOKENS // (windows.shape[1] - 1))
    chosen = np.linspace(0, len(windows) - 1, min(count, len(windows))).astype(int)
    power = {name: np.float64(0) for name in tensors}
    for values in product_inputs(graph, model, tensors, windows[chosen, :-1][:, :_MAX_TOKENS]):
        for name, x in values.items():  # (T, K)
            power[name] = power[name] + np.square(x, dtype=np.float64).sum(axis=0)
    largest = _largest_by_input(
        model, graph.parent, {p for group in groups for p in group.products}
    )
    inputs: dict[str, np.ndarray] = {}
    outputs: dict[str, np.ndarray] = {}
    for group in groups:
        size = np.sqrt(power[products[group.products[0]].input])
        weight = np.max([largest[name] for name in group.products], axis=0)
        factors = _factors(size, weight)
        inputs |= dict.fromkeys(group.products, factors)
        if group.producer is not None:
            before = np.ones(group.untouched, np.float32)
            outputs[group.producer] = np.concatenate([before, factors])
    return Equalization(inputs, outputs)


def _factors(size: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Square roots of size over weight [K], with a geometric mean of one."""
    ratio = _above(size) / _above(weight)
    logarithm = np.log(ratio) / 2
    factors: np.ndarray = np.exp(logarithm - logarithm.mean()).astype(np.float32)
    return factors


def _above(values: np.ndarray) -> np.ndarray:
    return np.maximum(values, values.mean() * _LEAST_SHARE or 1.0)


def _groups(architecture: Architecture) -> Iterator[_Group]:
    """The products whose input may be divided."""
    family, body = architecture.family, architecture.body
    yield _Group((family.embedding if architecture.is_tied else family.head,), None)
    if not isinstance(body, Attention):
        return
    for layer in range(architecture.n_layer):
        prefix, name = f"layers.{layer}", family.layer.format(layer=layer)
        attention, mlp = f"{prefix}.attention.qkv.weight", f"{prefix}.gate_up.weight"
        if body.is_parallel and family.mlp_norm == family.attention_norm:
            yield _Group((attention, mlp), f"{name}.{family.attention_norm}")
        else:
            if family.attention_norm is not None:
                yield _Group((attention,), f"{name}.{family.attention_norm}")
            if family.mlp_norm is not None:
                yield _Group((mlp,), f"{name}.{family.mlp_norm}")
        if family.is_gated:
            yield _Group((f"{prefix}.mlp.weight",), mlp, body.n_ff)


def _largest_by_input(
    model: onnx.ModelProto, folder: Path, names: set[str]
) -> dict[str, np.ndarray]:
    """Of each matrix the largest magnitude that meets each channel of its input."""
    axes = {
        node.input[1]: 1 if node.op_type == "Gemm" else 0
        for node in model.graph.node
        if len(node.input) > 1 and node.input[1] in names and node.op_type in ("MatMul", "Gemm")
    }
    return {
        tensor.name: np.abs(numpy_helper.to_array(tensor, str(folder))).max(
            axis=1 - axes[tensor.name]
        )
        for tensor in model.graph.initializer
        if tensor.name in axes
    }
