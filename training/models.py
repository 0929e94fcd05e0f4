"""Model sizes: one dial becomes the configuration of a Transformer or of a recurrent network.

The Transformer is Qwen3 (RMSNorm, rotary positions, SwiGLU, normalised queries and keys) as
transformers implements it, so its checkpoints load anywhere; the LSTM and the GRU are this
project's (training/rnn.py) behind the same interface.

Shapes: V vocabulary, L layers (`n_layer`), D model width (`n_embd`), H heads, K head width,
F feed-forward width. D and F are multiples of 32, the block of the int8 export.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from training.config import Kind, ModelConfig, OptimizerConfig, Size
from training.rnn import RnnConfig, register
from training.tokens import SpecialTokenIds


@dataclass(frozen=True, slots=True)
class Shape:
    """Width and depth of one size of the Transformer."""

    n_layer: int
    n_embd: int
    n_head: int
    head_dim: int
    n_ff: int

    @property
    def layer_parameters(self) -> int:
        """Parameters of all layers' matrices, without embeddings and norms."""
        attention = 4 * self.n_embd * self.n_head * self.head_dim
        return self.n_layer * (attention + 3 * self.n_embd * self.n_ff)


@dataclass(frozen=True, slots=True)
class RecurrentShape:
    """Width and depth of one size of a recurrent network."""

    n_layer: int
    n_embd: int
    gates: int  # 4 in an LSTM, 3 in a GRU

    @property
    def layer_parameters(self) -> int:
        """Parameters of all layers' matrices, without embeddings and biases."""
        return self.n_layer * 2 * self.gates * self.n_embd**2


SHAPES: dict[Size, Shape] = {
    "1m": Shape(n_layer=4, n_embd=128, n_head=4, head_dim=32, n_ff=352),
    "3m": Shape(n_layer=4, n_embd=256, n_head=4, head_dim=64, n_ff=704),
    "10m": Shape(n_layer=6, n_embd=384, n_head=6, head_dim=64, n_ff=1024),
    "30m": Shape(n_layer=8, n_embd=576, n_head=9, head_dim=64, n_ff=1536),
    "100m": Shape(n_layer=14, n_embd=768, n_head=12, head_dim=64, n_ff=2048),
    "350m": Shape(n_layer=27, n_embd=1024, n_head=16, head_dim=64, n_ff=2816),
    "1b": Shape(n_layer=20, n_embd=2048, n_head=32, head_dim=64, n_ff=5504),
}
# Depths of the recurrent sizes; the width is the one that gives the Transformer's parameters.
_RECURRENT_LAYERS: dict[Size, int] = {
    "1m": 2, "3m": 2, "10m": 2, "30m": 3, "100m": 3, "350m": 4, "1b": 4,
}  # fmt: skip


def shape_of(kind: Kind, size: Size) -> Shape | RecurrentShape:
    """Width and depth of a size; kinds of one size have about as many parameters in their layers.

    3m is 4 layers of width 256 as a Transformer and 2 layers of width 448 as an LSTM.
    """
    if kind == "transformer":
        return SHAPES[size]
    n_layer, gates = _RECURRENT_LAYERS[size], {"lstm": 4, "gru": 3}[kind]
    width = math.sqrt(SHAPES[size].layer_parameters / (n_layer * 2 * gates))
    return RecurrentShape(n_layer, round(width / 32) * 32, gates)


def model_config(
    config: ModelConfig, vocab_size: int, special: SpecialTokenIds
) -> PretrainedConfig:
    """Write the transformers configuration of a size."""
    shape = shape_of(config.kind, config.size)
    tokens: dict[str, Any] = {
        "vocab_size": vocab_size,
        "max_position_embeddings": config.context_length,
        "tie_word_embeddings": True,
        "bos_token_id": special.bos,
        "eos_token_id": list(special.eos),
        "pad_token_id": special.pad,
    }
    if isinstance(shape, RecurrentShape):
        tokens["cell"] = config.kind
        return RnnConfig(hidden_size=shape.n_embd, num_hidden_layers=shape.n_layer, **tokens)
    return Qwen3Config(
        hidden_size=shape.n_embd,
        intermediate_size=shape.n_ff,
        num_hidden_layers=shape.n_layer,
        num_attention_heads=shape.n_head,
        num_key_value_heads=shape.n_head,
        head_dim=shape.head_dim,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        attention_dropout=0.0,
        **tokens,
    )


def build_model(
    config: ModelConfig, vocab_size: int, special: SpecialTokenIds, seed: int
) -> PreTrainedModel:
    """Make a model with random weights, the same ones for the same seed.

    The projections back into the residual stream start smaller, by the root of twice the depth.
    Source: GPT-2 (Radford et al. 2019), section 2.3.
    """
    torch.manual_seed(seed)
    settings = model_config(config, vocab_size, special)
    if isinstance(settings, RnnConfig):
        register()
        model = AutoModelForCausalLM.from_config(settings)
    else:
        model = AutoModelForCausalLM.from_config(settings, attn_implementation="eager")
    scale = 1 / math.sqrt(2 * settings.num_hidden_layers)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.mul_(scale)
    return model


def add_dropout(network: PreTrainedModel, share: float) -> None:
    """Drop a share of the values in training: of attention weights, and of what each layer adds.

    The Transformers of transformers have the first alone; the second hangs on the two projections
    back into the residual stream. A recurrent network drops where its own file says.
    """
    if not share:
        return
    for name, module in network.named_modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        elif isinstance(module, nn.RNNBase):
            module.dropout = share if module.num_layers > 1 else 0.0
        elif name.endswith(("o_proj", "down_proj")):
            module.register_forward_hook(partial(_drop, share))
        elif hasattr(module, "attention_dropout"):
            module.attention_dropout = share


def _drop(share: float, module: nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
    return nn.functional.dropout(output, share, training=module.training)


@dataclass(frozen=True, slots=True)
class LearningRates:
    """Full learning rates of the algorithms in use; None for those that are not."""

    muon: float | None = None
    adamw: float | None = None
    sgd: float | None = None

    def __str__(self) -> str:
        names = {"Muon": self.muon, "AdamW": self.adamw, "SGD": self.sgd}
        return ", ".join(f"{name} {rate:.3g}" for name, rate in names.items() if rate is not None)


def learning_rates(width: int, config: OptimizerConfig, ratio: float = 1.0) -> LearningRates:
    """The learning rates: as set, else derived from the model's width.

    Muon's update has the same size whatever the width, so one value serves all; AdamW's falls with
    the root of the width. Chosen for runs of minutes (410 steps of the 3m size on the embedded
    corpus: validation loss 4.14, against 4.26 with the usual 0.02 and 0.003). Beside Muon, AdamW
    moves the embeddings alone, which bear more than the layers do.

    Args:
        width: of the model, D.
        config: what the user set.
        ratio: of the derived rates, for methods that move the weights less.
    """
    narrowing = math.sqrt(256 / width)
    if config.optimizer_name == "sgd":
        return LearningRates(sgd=config.sgd_learning_rate or 0.3 * ratio)
    if config.optimizer_name == "adamw":
        return LearningRates(adamw=config.adamw_learning_rate or 0.003 * narrowing * ratio)
    return LearningRates(
        muon=config.muon_learning_rate or 0.012 * ratio,
        adamw=config.adamw_learning_rate or 0.02 * narrowing * ratio,
    )


def describe(config: ModelConfig, optimizer: OptimizerConfig, vocab_size: int) -> str:
    """One line for people: what a size means with this vocabulary."""
    shape = shape_of(config.kind, config.size)
    heads = f", {shape.n_head} heads" if isinstance(shape, Shape) else ""
    total = shape.layer_parameters + vocab_size * shape.n_embd
    return (
        f"{config.kind} {config.size}: {total / 1e6:.1f} M parameters ({shape.n_layer} layers, "
        f"width {shape.n_embd}{heads}), vocabulary {vocab_size:,}, context "
        f"{config.context_length}, learning rates {learning_rates(shape.n_embd, optimizer)}"
    )
