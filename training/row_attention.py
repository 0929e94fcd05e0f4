"""Attention over rows that follow one another in one sequence, each by itself, without padding.

The layers see (1, N) tokens, of which none is padding; only here are the rows taken apart. It is
the form that transformers has for FlashAttention's variable lengths, and takes the same arguments.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

NAME = "rows"
_PROBE = (5, 3)  # lengths of the rows on which a network is compared with itself


def attend_by_rows(
    _: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,  # noqa: ARG001 - rows need none
    **settings: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row.

    Args:
        query: (1, H, N, K).
        key: (1, G, N, K), where G divides H.
        value: as key.
        attention_mask: not used.
        settings: `cu_seq_lens_q`, where rows begin, and the end, (R + 1,), one row if absent;
            `scaling` of the products, the root of K by default; `dropout` of the attention weights;
            `sliding_window`, tokens that each token sees, itself included; `softcap`, bound of the
            scores. What only other forms of attention need comes along and is not used.

    Returns:
        (1, N, H, K), and no weights.

    Raises:
        NotImplementedError: the layer wants what this form cannot do.
    """
    if any(settings.get(name) is not None for name in ("s_aux", "position_bias")):
        raise NotImplementedError("attention by rows knows neither sinks nor position biases")
    cuts = settings.get("cu_seq_lens_q")
    ends = [0, query.shape[2]] if cuts is None else cuts.tolist()
    lengths = [end - start for start, end in itertools.pairwise(ends)]
    scaling = settings.get("scaling")
    how = _Setting(
        scaling=query.shape[3] ** -0.5 if scaling is None else scaling,
        dropout=settings.get("dropout") or 0.0,
        window=settings.get("sliding_window"),
        softcap=settings.get("softcap"),
    )
    taken_apart = zip(
        query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True
    )
    rows = [_attend(q, k, v, how) for q, k, v in taken_apart]
    return torch.cat(rows, dim=2).transpose(1, 2).contiguous(), None


@dataclass(frozen=True, slots=True)
class _Setting:
    """How a layer attends."""

    scaling: float
    dropout: float
    window: int | None
    softcap: float | None


def _attend(query: Tensor, key: Tensor, value: Tensor, how: _Setting) -> Tensor:
    tokens = query.shape[2]
    is_open = how.window is None or how.window >= tokens
    if how.softcap is None:
        return scaled_dot_product_attention(
            query,
            key,
            value,
            None if is_open else _mask(tokens, how.window, query.device),
            how.dropout,
            is_causal=is_open,
            scale=how.scaling,
            enable_gqa=True,
        )
    repeats = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key, value))
    scores = how.softcap * torch.tanh(query @ key.transpose(2, 3) * (how.scaling / how.softcap))
    scores = scores.masked_fill(~_mask(tokens, how.window, query.device), float("-inf"))
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return drop(weights, how.dropout) @ value


def _mask(tokens: int, window: int | None, device: torch.device) -> Tensor:
    """Which tokens (columns) a token (row) sees, (T, T)."""
    places = torch.arange(tokens, device=device)
    distance = places[:, None] - places
    seen = distance >= 0
    return seen if window is None else seen & (distance < window)


def read_by_rows(network: PreTrainedModel) -> bool:
    """Let the network attend by rows, where that changes nothing.

    Returns:
        False where the architecture has an attention of its own; it is left as it was.
    """
    AttentionInterface.register(NAME, attend_by_rows)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)
    before = network.config._attn_implementation
    # Architectures without the interface keep windows and biases to themselves.
    if not network._supports_flash_attn or not network._can_set_attn_implementation():
        return False
    was_training = network.training
    network.eval()
    is_same = False
    try:
        rows = [_row(network, length) for length in _PROBE]
        apart = torch.cat([_hidden(network, input_ids=row) for row in rows], dim=1)
        network.set_attn_implementation(NAME)
        together = _hidden(network, input_ids=torch.cat(rows, dim=1), **row_places(_PROBE))
        tolerance = 1e-4 * max(1.0, float(apart.abs().max()))
        is_same = torch.allclose(together, apart, rtol=0, atol=tolerance)
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError):
        pass  # it takes other arguments, or wants what rows cannot do
    finally:
        network.train(was_training)
    if not is_same:
        network.set_attn_implementation(before)
    return is_same


def row_places(lengths: Any) -> dict[str, Tensor]:
    """What tells a network where rows begin: positions (1, N) and cuts (R + 1,)."""
    counts = torch.tensor([0, *lengths])
    return {
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "cu_seq_lens_q": counts.cumsum(0).to(torch.int32),
    }


def _row(network: PreTrainedModel, length: int) -> Tensor:
    ids = torch.arange(length, device=network.device)[None]
    return (ids + length) % network.config.vocab_size


@torch.no_grad()
def _hidden(network: PreTrainedModel, **inputs: Tensor) -> Tensor:
    moved = {name: value.to(network.device) for name, value in inputs.items()}
    hidden: Tensor = network.base_model(**moved, use_cache=False).last_hidden_state
    return hidden
