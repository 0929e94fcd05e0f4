"""Model sizes: one dial becomes the configuration of a Transformer, built by transformers' classes.

No layer is written here: the model is Qwen3 (RMSNorm, rotary positions, SwiGLU, normalised queries
and keys) as transformers implements it, so its checkpoints load anywhere.

Shapes: V vocabulary, L layers (`n_layer`), D model width (`n_embd`), H heads, K head width,
F feed-forward width. D and F are multiples of 32, the block of the int8 export.
"""

import math
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config

from training.config import ModelConfig, OptimizerConfig
from training.tokens import SpecialTokenIds


@dataclass(frozen=True, slots=True)
class Shape:
    """Width and depth of one size."""

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


SHAPES: dict[str, Shape] = {
    "1m": Shape(n_layer=4, n_embd=128, n_head=4, head_dim=32, n_ff=352),
    "3m": Shape(n_layer=4, n_embd=256, n_head=4, head_dim=64, n_ff=704),
    "10m": Shape(n_layer=6, n_embd=384, n_head=6, head_dim=64, n_ff=1024),
    "30m": Shape(n_layer=8, n_embd=576, n_head=9, head_dim=64, n_ff=1536),
    "100m": Shape(n_layer=14, n_embd=768, n_head=12, head_dim=64, n_ff=2048),
}


def model_config(config: ModelConfig, vocab_size: int, special: SpecialTokenIds) -> Qwen3Config:
    """Write the transformers configuration of a size."""
    shape = SHAPES[config.size]
    return Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=shape.n_embd,
        intermediate_size=shape.n_ff,
        num_hidden_layers=shape.n_layer,
        num_attention_heads=shape.n_head,
        num_key_value_heads=shape.n_head,
        head_dim=shape.head_dim,
        max_position_embeddings=config.context_length,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=True,
        attention_dropout=0.0,
        bos_token_id=special.bos,
        eos_token_id=list(special.eos),
        pad_token_id=special.pad,
    )


def build_model(
    config: ModelConfig, vocab_size: int, special: SpecialTokenIds, seed: int
) -> PreTrainedModel:
    """Make a model with random weights, the same ones for the same seed.

    The projections back into the residual stream start smaller, by the root of twice the depth.
    Source: GPT-2 (Radford et al. 2019), section 2.3.
    """
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        model_config(config, vocab_size, special), attn_implementation="eager"
    )
    scale = 1 / math.sqrt(2 * SHAPES[config.size].n_layer)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.mul_(scale)
    return model


def learning_rates(width: int, config: OptimizerConfig) -> tuple[float, float]:
    """The learning rates of Muon and AdamW: as set, else derived from the model's width.

    Muon's update has the same size whatever the width, so one value serves all; AdamW's falls with
    the root of the width. Both were chosen for runs of minutes (410 steps of the 3m size on the
    embedded corpus: validation loss 4.14, against 4.26 with the usual 0.02 and 0.003).
    """
    return (
        config.muon_learning_rate or 0.012,
        config.adamw_learning_rate or 0.02 * math.sqrt(256 / width),
    )


def describe(config: ModelConfig, optimizer: OptimizerConfig, vocab_size: int) -> str:
    """One line for people: what a size means with this vocabulary."""
    shape = SHAPES[config.size]
    muon, adamw = learning_rates(shape.n_embd, optimizer)
    total = shape.layer_parameters + vocab_size * shape.n_embd
    return (
        f"{config.size}: {total / 1e6:.1f} M parameters ({shape.n_layer} layers, width "
        f"{shape.n_embd}, {shape.n_head} heads), vocabulary {vocab_size:,}, context "
        f"{config.context_length}, learning rates Muon {muon:g}, AdamW {adamw:g}"
    )
