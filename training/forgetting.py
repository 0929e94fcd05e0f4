"""How far a tuned checkpoint has moved from the one before it, on answers that this one gave."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from everloop.errors import DataError
from everloop.records import Message
from training.cpu import training_session
from training.encoded_rows import split_answer
from training.pretrained import load_chat_tokenizer, load_network
from training.scoring import Continuation

_BATCH = 8


def answer_divergence(
    reference: Path,
    candidate: Path,
    conversations: Sequence[Sequence[Message]],
    *,
    num_threads: int | None = None,
) -> float:
    """Kullback-Leibler divergence of a candidate's next tokens from a reference's, in fp32.

    Args:
        reference: checkpoint whose tokenizer and chat template both use.
        candidate: checkpoint that was trained from it.
        conversations: each ends with an answer; the divergence is taken at its tokens.
        num_threads: CPU threads; None leaves torch's own choice.

    Returns:
        KL(reference || candidate), nats a token, averaged over all answers' tokens.

    Raises:
        DataError: no conversation has an answer within the context.
        ArtifactError: a folder holds no causal language model.
    """
    with training_session(num_threads), torch.inference_mode():
        tokenizer = load_chat_tokenizer(reference)
        before, after = (load_network(folder).eval() for folder in (reference, candidate))
        longest = int(before.config.max_position_embeddings)
        parts = [split_answer(messages, tokenizer) for messages in conversations]
        parts = [part for part in parts if part[1] and len(part[0]) + len(part[1]) <= longest]
        if not parts:
            raise DataError("forgetting cannot be measured: no conversation ends with an answer.")
        parts.sort(key=lambda part: len(part[0]) + len(part[1]))
        batches = [parts[start : start + _BATCH] for start in range(0, len(parts), _BATCH)]
        total = sum(float(_divergences(before, after, batch).sum()) for batch in batches)
    return total / sum(len(answer) for _, answer in parts)


def _divergences(
    reference: PreTrainedModel, candidate: PreTrainedModel, batch: Sequence[Continuation]
) -> torch.Tensor:
    """The divergence at every token of the answers, nats, (N,)."""
    width = max(len(prompt) + len(answer) for prompt, answer in batch)
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    predicts = torch.zeros((len(batch), width), dtype=torch.bool)
    for row, (prompt, answer) in enumerate(batch):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor([*prompt, *answer])
        predicts[row, len(prompt) - 1 : end - 1] = True  # a token is predicted one place before it
    # Padding stands on the right, where nothing sees it.
    wanted, found = (
        network(input_ids=ids, use_cache=False).logits[predicts].double().log_softmax(-1)
        for network in (reference, candidate)
    )  # (N, V) each
    return (wanted.exp() * (wanted - found)).sum(-1)
