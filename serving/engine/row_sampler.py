"""The new tokens of a step's rows, from their logits. The only caller of the sampler.

A row with drafts has logits for each of them and for the token before. A token is chosen at every
one of these places as if there were no drafts, and a draft stands if it is what was chosen, up to
the first that is not. So drafts change how many tokens a step gives, never which, whatever the
parameters of the request.

Rows are taken one by one because one row of logits stays in the processor's second-level cache and
a batch of them does not: for 32 rows of 49,152 logits that is three times as fast as partitioning
the batch.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from everloop.errors import DataError, EngineError
from serving.engine import sampler
from serving.engine.logprobs import token_logprobs
from serving.engine.row_errors import row_error
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
        error: why no token could be chosen; it concerns this row alone.
    """

    token_ids: list[int]
    num_accepted: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    error: DataError | EngineError | None = None


def sample_rows(rows: list[ScheduledRow], logits: NDArray[np.float32]) -> list[SampledRow]:
    """Choose the next tokens of every row.

    Args:
        rows: as they were run, their sequences not yet moved on.
        logits: (R, V), row after row; of no use afterwards.
    """
    sampled = []
    start = 0
    for row in rows:
        stop = start + row.num_logits
        try:
            found = _sample(row, logits[start:stop])
        except BaseException as raised:  # noqa: BLE001 - its request alone is told
            # Tokens before the error are right, but a request that cannot go on is of no use.
            found = SampledRow([], error=row_error(row.sequence.seq_id, raised))
        sampled.append(found)
        start = stop
    return sampled


def _sample(row: ScheduledRow, logits: NDArray[np.float32]) -> SampledRow:
    if row.sequence.error is not None:
        return SampledRow([], error=row.sequence.error)
    count = row.num_sampled
    first = row.num_logits - count  # logits before are those of prompt tokens
    token_ids: list[int] = []
    logprobs: list[TokenLogprobs] = []
    for place in range(count):
        position = row.sequence.num_completion_tokens + place
        token, found = sampler.choose(logits[first + place], row.sequence, position)
        token_ids.append(token)
        if found is not None:
            logprobs.append(found)
        if row.sequence.logits_processor is not None:
            row.sequence.logits_processor.accept(token)
            if row.sequence.logits_processor.is_complete:
                break
        if place < count - 1 and token != row.token_ids[place + 1 - count]:
            break
    accepted = max(len(token_ids) - 1, 0)
    return SampledRow(token_ids, accepted, tuple(logprobs), _prompt_logprobs(row, logits))


def _prompt_logprobs(row: ScheduledRow, logits: NDArray[np.float32]) -> tuple[TokenLogprobs, ...]:
    sequence = row.sequence
    wanted = sequence.params.prompt_logprobs
    if wanted is None:
        return ()
    # The last logits belong to the row's last token; each row predicts the token behind its own.
    end = sequence.num_computed_tokens + len(row.token_ids) + 1
    following = sequence.token_ids[end - row.num_logits : min(end, sequence.num_prompt_tokens)]
    return tuple(
        token_logprobs(logits[index], token, wanted) for index, token in enumerate(following)
    )
