"""Who runs in the next step, with how many tokens. Knows tokens and slots, never tensors.

Decode comes first, so that a long prompt delays the others by one chunk and no more; prompts fill
what is left of the token budget, first come, first served.
"""

from collections import deque
from dataclasses import dataclass

from serving.engine.cache import SlotCache
from serving.engine.sequence import Sequence, SequenceStatus


@dataclass(slots=True)
class ScheduledRow:
    """A sequence's share of one run.

    Attributes:
        token_ids: its new tokens: one in decode, a chunk of the prompt in prefill; behind the last
            token of the sequence, tokens drafted for it.
        num_logits: how many of the last of them have their logits computed: none for a chunk in
            the middle of a prompt, all for the logprobs of the prompt, else one per token to
            choose.
    """

    sequence: Sequence
    token_ids: list[int]
    num_logits: int

    @property
    def num_sampled(self) -> int:
        """Tokens to choose: the last logits, from that of the sequence's last token on."""
        return max(len(self.token_ids) - self.sequence.num_pending_tokens + 1, 0)


@dataclass(slots=True)
class Schedule:
    """One step: the batches to run, each in ascending order of slots, and who was admitted."""

    batches: list[list[ScheduledRow]]
    admitted: list[Sequence]


class Scheduler:
    """Continuous batching with chunked prefill over the slots of one cache.

    Args:
        max_num_batched_tokens: token budget of a step, at least the number of slots.
        max_query_len: tokens that one sequence may add in a step.
    """

    def __init__(self, cache: SlotCache, max_num_batched_tokens: int, max_query_len: int) -> None:
        self._cache = cache
        self._budget = max_num_batched_tokens
        self._max_query_len = max_query_len
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self.waiting.append(sequence)

    def schedule(self) -> Schedule:
        """Choose the rows of the next step; sequences are admitted while slots and budget last."""
        rows = []
        prefills = []
        budget = self._budget
        for sequence in self.running:
            if sequence.num_pending_tokens == 1:
                rows.append(ScheduledRow(sequence, sequence.token_ids[-1:], 1))
                budget -= 1
            else:
                prefills.append(sequence)
        admitted: list[Sequence] = []
        while budget > 0:
            if prefills:
                sequence = prefills.pop(0)
            elif self.waiting and self._cache.num_free_slots:
                sequence = self._admit()
                admitted.append(sequence)
            else:
                break
            row = _chunk(sequence, min(budget, self._max_query_len))
            rows.append(row)
            budget -= len(row.token_ids)
        return Schedule(_split(rows) if rows else [], admitted)

    def finish(self, sequence: Sequence, *, keep_prefix: bool = True) -> None:
        """Take a sequence out, whatever it was doing, and give its slot back.

        Args:
            sequence: waiting or running.
            keep_prefix: whether its state may serve a later prompt.
        """
        if sequence.slot is None:
            self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
            computed = sequence.token_ids[: sequence.num_computed_tokens] if keep_prefix else []
            self._cache.free(sequence.slot, computed)
            sequence.slot = None
        sequence.status = SequenceStatus.FINISHED

    def _admit(self) -> Sequence:
        sequence = self.waiting.popleft()
        sequence.slot, sequence.num_cached_tokens = self._cache.allocate(sequence.token_ids)
        sequence.num_computed_tokens = sequence.num_cached_tokens
        sequence.status = SequenceStatus.RUNNING
        self.running.append(sequence)
        return sequence


def _chunk(sequence: Sequence, limit: int) -> ScheduledRow:
    start = sequence.num_computed_tokens
    token_ids = sequence.token_ids[start : start + limit]
    if sequence.params.prompt_logprobs is not None:
        return ScheduledRow(sequence, token_ids, len(token_ids))
    return ScheduledRow(sequence, token_ids, int(start + len(token_ids) == len(sequence.token_ids)))


# Attention sees every row as wide as the widest, so one wide chunk beside many decode rows makes
# the graph move rows x width cells in every layer, nearly all of them padding. Running the chunk
# on its own reads all weights once more instead. Measured on the 135M shape in fp32 and int8, one
# and two threads: up to about 16 x 128 cells one run is faster, at 31 x 128 they are equal, at
# 31 x 200 two runs save a tenth to a fifth.
_MAX_CELLS = 4096
_WIDE_CHUNK = 64


def _split(rows: list[ScheduledRow]) -> list[list[ScheduledRow]]:
    """One batch, or the narrow rows together and then each wide chunk alone."""
    rows.sort(key=_slot)
    width = max(len(row.token_ids) for row in rows)
    if (_slot(rows[-1]) - _slot(rows[0]) + 1) * width <= _MAX_CELLS:
        return [rows]
    narrow = [row for row in rows if len(row.token_ids) <= _WIDE_CHUNK]
    wide = [[row] for row in rows if len(row.token_ids) > _WIDE_CHUNK]
    return [narrow, *wide] if narrow else wide


def _slot(row: ScheduledRow) -> int:
    slot = row.sequence.slot
    assert slot is not None, "only a sequence with a slot is scheduled"
    return slot
