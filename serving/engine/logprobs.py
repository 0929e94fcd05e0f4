"""Exact logarithms of probabilities, from a row's raw logits over the whole vocabulary."""

import math

import numpy as np
from numpy.typing import NDArray

from serving.engine.distribution import largest
from serving.engine.sequence import TokenLogprobs


def token_logprobs(logits: NDArray[np.float32], token_id: int, count: int) -> TokenLogprobs:
    """The log-probability of a token and of the most probable ones.

    Args:
        logits: (V,), as the model gives them.
        token_id: the token that stands at this position.
        count: how many alternatives, by falling probability, then by rising id.
    """
    normaliser = log_sum_exp(logits)
    top = largest(logits, count)[:count].tolist() if count else []
    return TokenLogprobs(
        token_id,
        float(logits[token_id]) - normaliser,
        tuple((token, float(logits[token]) - normaliser) for token in top),
    )


def log_sum_exp(logits: NDArray[np.float32]) -> float:
    """The logarithm of the sum of exponentials, which turns logits into log-probabilities.

    Exponentials and their sum, pairwise, are float32: the logarithm is off by 1e-6 at most.
    """
    peak = logits.max()
    return float(peak) + math.log(float(np.exp(logits - peak).sum()))
