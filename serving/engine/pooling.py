"""Embeddings: the mean of a text's hidden states, added up chunk by chunk."""

import numpy as np
from numpy.typing import NDArray

from serving.engine.row_errors import row_error
from serving.engine.row_sampler import SampledRow
from serving.engine.scheduler import ScheduledRow
from serving.engine.sequence import Sequence


def pool_rows(rows: list[ScheduledRow], hidden: NDArray[np.float32]) -> list[SampledRow]:
    """Add the hidden states of a step to the sums of their sequences.

    Args:
        rows: of embeddings, as they were run.
        hidden: (R, D), row after row.

    Returns:
        For each row, that no token was chosen, and why it cannot go on if so.
    """
    pooled = []
    start = 0
    for row in rows:
        stop = start + row.num_logits
        error = None
        try:
            if row.sequence.hidden_sum is not None:
                row.sequence.hidden_sum += hidden[start:stop].sum(axis=0, dtype=np.float64)
        except BaseException as raised:  # noqa: BLE001 - its request alone is told
            error = row_error(row.sequence.seq_id, raised)
        pooled.append(SampledRow([], error=error))
        start = stop
    return pooled


def embedding(sequence: Sequence) -> NDArray[np.float32] | None:
    """The mean, (D,), once the whole text has run."""
    if sequence.hidden_sum is None or sequence.num_pending_tokens:
        return None
    return (sequence.hidden_sum / sequence.num_prompt_tokens).astype(np.float32)
