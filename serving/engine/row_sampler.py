"""The new tokens of a step's rows, from their logits. The only caller of the sampler.

A row with drafts has logits for each of them and for the token before. A token is chosen at every
one of these places as if there were no drafts, and a draft stands if it is what was chosen, up to
the first that is not. So drafts change how many tokens a step gives, never which.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.engine import sampler
from serving.engine.scheduler import ScheduledRow
from serving.engine.sequence import TokenLogprobs


@dataclass(slots=True)
class SampledRow:
    """What the logits of one row gave.

    Attributes:
        token_ids: the chosen tokens; none for a chunk in the middle of a prompt.
        num_accepted: how many of the row's drafts stand.
        logprobs: of token_ids, when asked for.
        prompt_logprobs: of the prompt's tokens that follow the row's, when asked for.
    """

    token_ids: list[int]
    num_accepted: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()


def sample_rows(rows: list[ScheduledRow], logits: NDArray[np.float32]) -> list[SampledRow]:
    """Choose the next tokens of every row.

    Args:
        rows: as they were run, their sequences not yet moved on.
        logits: (R, V), row after row.

    Raises:
        EngineError: the logits are not finite.
    """
    places = []
    params = []
    seeds = []
    positions = []
    counts = []
    start = 0
    for row in rows:
        sequence = row.sequence
        count = row.num_sampled
        counts.append(count)
        start += row.num_logits
        for index in range(count):
            places.append(start - count + index)
            params.append(sequence.params)
            seeds.append(sequence.seed)
            positions.append(sequence.num_completion_tokens + index)
    if len(places) < len(logits):  # the others are those of prompt tokens
        logits = logits[places]
    chosen = iter(sampler.sample(logits, params, seeds, positions))
    return [
        _accept(row, [next(chosen) for _ in range(count)])
        for row, count in zip(rows, counts, strict=True)
    ]


def _accept(row: ScheduledRow, chosen: list[int]) -> SampledRow:
    """Keep the chosen tokens up to the first that its draft did not foresee."""
    if len(chosen) <= 1:
        return SampledRow(chosen)
    drafts = row.token_ids[1 - len(chosen) :]
    accepted = 0
    while accepted < len(drafts) and chosen[accepted] == drafts[accepted]:
        accepted += 1
    return SampledRow(chosen[: accepted + 1], accepted)
