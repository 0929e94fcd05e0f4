"""The loss of the tokens that are learnt, without the logits of all others, and never of many.

Over a vocabulary of 49,152 tokens the logits of 2,048 positions take 400 MB, and their softmax and
its gradient as much again. Here the head sees only positions that carry a label, some hundred at a
time, and gives their part of the gradient at once.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from training.encoded_rows import IGNORED

_LOGITS = 1 << 24  # that are computed at once, 64 MiB in fp32
# What architectures do with the logits, by the key of their config: (logits, its value) -> logits.
_FINISHES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "logits_scaling": lambda logits, value: logits / value,
    "logit_scale": lambda logits, value: logits * value,
    "final_logit_softcapping": lambda logits, value: value * torch.tanh(logits / value),
}
_PROBE = 7  # tokens on which a network's own logits are compared


def learn_in_pieces(network: PreTrainedModel) -> bool:
    """Let the network compute its loss in pieces, where its logits are understood.

    Only calls with labels change: they give the loss and no logits. They also take
    `label_smoothing`, the share of the target that is spread over the vocabulary, and
    `num_items_in_batch`, by which the sum is divided in place of the number of labels.

    Returns:
        False where the network makes its logits in a way of its own; it is left as it was.
    """
    plain = network.forward
    if getattr(network.config, "output_router_logits", False) or not _is_understood(network):
        return False

    def forward(
        *args: Any,
        labels: Tensor | None = None,
        shift_labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        label_smoothing: float = 0.0,
        **inputs: Any,
    ) -> Any:
        if labels is None and shift_labels is None:
            return plain(*args, **inputs)
        hidden = network.base_model(*args, **inputs).last_hidden_state  # (B, T, D)
        if shift_labels is None:
            hidden, shift_labels = hidden[:, :-1], labels[:, 1:]  # type: ignore[index]
        learnt = shift_labels != IGNORED
        loss = sum_of_losses(network, hidden[learnt], shift_labels[learnt], label_smoothing)
        items = learnt.sum() if num_items_in_batch is None else num_items_in_batch
        return CausalLMOutputWithPast(loss=loss / items)

    network.forward = forward
    return True


def sum_of_losses(
    network: PreTrainedModel, hidden: Tensor, targets: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of a network's head, summed over positions.

    Args:
        hidden: what the head is given, (N, D).
        targets: the next tokens, (N,).
        label_smoothing: share of the target that is spread over the vocabulary.

    Returns:
        Nats, a scalar; its gradients reach `hidden` and those of the head's parameters that train.
    """
    head: Any = network.get_output_embeddings()
    learnt = [parameter for parameter in head.parameters() if parameter.requires_grad]
    loss: Tensor = _PiecewiseLoss.apply(network, targets, label_smoothing, hidden, *learnt)
    return loss


class _PiecewiseLoss(torch.autograd.Function):
    """Computes gradients beside the loss, since the logits of a piece are there only then."""

    @staticmethod
    def forward(
        ctx: Any,
        network: PreTrainedModel,
        targets: Tensor,
        smoothing: float,
        hidden: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        wants = any(ctx.needs_input_grad)
        total = hidden.new_zeros((), dtype=torch.float32)
        gradients = [torch.zeros_like(tensor) for tensor in (hidden, *parameters)] if wants else []
        for start in range(0, len(targets), piece_length(network)):
            piece = slice(start, start + piece_length(network))
            with torch.set_grad_enabled(wants):
                inputs = hidden[piece].detach().requires_grad_(wants)
                loss = torch.nn.functional.cross_entropy(
                    _logits(network, inputs).float(),
                    targets[piece],
                    reduction="sum",
                    label_smoothing=smoothing,
                )
            total += loss.detach()
            if wants:
                found = torch.autograd.grad(loss, (inputs, *parameters))
                gradients[0][piece] = found[0]
                for gradient, part in zip(gradients[1:], found[1:], strict=True):
                    gradient += part
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Any, ...]:
        return (None, None, None, *(gradient * scale for gradient in ctx.saved_tensors))


def piece_length(network: PreTrainedModel) -> int:
    """Positions whose logits are computed at once."""
    head: Any = network.get_output_embeddings()
    return max(1, _LOGITS // int(head.weight.shape[0]))


def _logits(network: PreTrainedModel, hidden: Tensor) -> Tensor:
    head: Any = network.get_output_embeddings()
    logits: Tensor = head(hidden)
    for name, finish in _FINISHES.items():
        value = getattr(network.config, name, None)
        if value is not None:
            logits = finish(logits, value)
    return logits


@torch.no_grad()
def _is_understood(network: PreTrainedModel) -> bool:
    """Whether the head over the last hidden state gives the network's own logits."""
    was_training = network.training
    network.eval()
    try:
        ids = torch.arange(_PROBE, device=network.device)[None] % network.config.vocab_size
        own = network(input_ids=ids, use_cache=False).logits
        hidden = network.base_model(input_ids=ids, use_cache=False).last_hidden_state
        largest = float(own.abs().max())
        ours = _logits(network, hidden)
        return own.shape == ours.shape and torch.allclose(
            ours, own, rtol=0, atol=max(largest, math.ulp(1.0)) * 1e-4
        )
    except (AttributeError, TypeError):  # no plain head, or a backbone with another interface
        return False
    finally:
        network.train(was_training)
