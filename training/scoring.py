"""How likely a network finds given continuations; what losses, choices and preferences share."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from training.encoded_rows import IGNORED

Continuation = tuple[list[int], list[int]]  # what is read, what is scored


def log_likelihoods(
    network: PreTrainedModel, continuations: Sequence[Continuation], *, batch_size: int = 16
) -> npt.NDArray[np.float64]:
    """Log-probability of each continuation given what stands before it, in fp32.

    Args:
        continuations: each prompt has at least one token; prompt and continuation fit together
            into the context.

    Returns:
        Sums over the tokens of each continuation, nats, (N,).
    """
    order = sorted(
        range(len(continuations)), key=lambda index: -sum(map(len, continuations[index]))
    )
    sums = np.zeros(len(continuations))
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            sums[chosen] = _score(network, [continuations[index] for index in chosen])
    return sums


def _score(network: PreTrainedModel, batch: Sequence[Continuation]) -> npt.NDArray[np.float64]:
    width = max(len(prompt) + len(answer) for prompt, answer in batch)
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    labels = torch.full((len(batch), width), IGNORED)
    for row, (prompt, answer) in enumerate(batch):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor([*prompt, *answer])
        labels[row, len(prompt) : end] = torch.tensor(answer)
    ids, labels = ids.to(network.device), labels.to(network.device)
    # Padding stands on the right, where nothing sees it.
    logits = network(input_ids=ids, use_cache=False).logits[:, :-1].float()  # (B, T - 1, V)
    losses = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), labels[:, 1:], reduction="none"
    )  # (B, T - 1), 0 where ignored
    return -losses.sum(dim=1).double().cpu().numpy()
