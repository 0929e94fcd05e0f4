"""Who runs in the next step, with how many tokens. Knows tokens and slots, never tensors.

Every running answer gets a token in every step. What the step has left goes to prompts: chunks
small enough that the answers hardly feel them, half for the prompt that was begun first, the rest
for the shortest, so that a long prompt delays neither running answers nor short prompts by much.

A prompt's token is not computed alone while others of the prompt are computed together: for a
single query attention sums in another order, so that the last bits of an answer would depend on
what else was running when its prompt was read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from serving.engine.cache import SlotCache
from serving.engine.fair_queue import FairQueue
from serving.engine.sequence import Sequence, SequenceStatus
from serving.engine.speculation import Drafter
from serving.engine.step_times import StepTimes


@dataclass(slots=True)
class ScheduledRow:
    """A sequence's share of one run.

    Attributes:
        token_ids: its new tokens: one in decode, a chunk of the prompt in prefill; behind the last
            token of the sequence, tokens drafted for it.
        num_logits: how many of the last of them have their logits (or hidden states) computed: none
            for a chunk in the middle of a prompt, all for the logprobs of the prompt and for an
            embedding, else one per token to choose.
    """

    sequence: Sequence
    token_ids: list[int]
    num_logits: int

    @property
    def num_sampled(self) -> int:
        """Tokens to choose: the last logits, from that of the sequence's last token on."""
        return max(len(self.token_ids) - self.sequence.num_pending_tokens + 1, 0)


@dataclass(frozen=True, slots=True)
class PrefixCopy:
    """State of a prompt's first tokens that another slot has, to be copied before the step."""

    source: int
    target: int
    num_tokens: int


@dataclass(slots=True)
class Schedule:
    """One step.

    Attributes:
        batches: rows to run together, each in ascending order of slots; all of a batch embed, or
            none.
        admitted: who got a slot.
        copies: to be made in this order before the first run.
        num_decoding, num_prompt_tokens, num_drafts: what the step does.
    """

    batches: list[list[ScheduledRow]] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    copies: list[PrefixCopy] = field(default_factory=list)
    num_decoding: int = 0
    num_prompt_tokens: int = 0
    num_drafts: int = 0


# A chunk of two tokens at least, and one less where one token would be left.
_LEAST_ROOM = 3


class Scheduler:
    """Continuous batching with chunked prefill over the slots of one cache.

    Args:
        cache: the slots.
        max_num_batched_tokens: token budget of a step, at least the number of slots.
        max_query_len: tokens that one sequence may add in a step.
        times: of the steps before, which bound the prompt tokens beside running answers.
        drafter: None for a model whose state cannot be taken back.
        wide_from: tokens of a step from which on other products compute it. Drafts make no step one
            of these: an answer would depend on what was drafted.
    """

    def __init__(
        self,
        cache: SlotCache,
        max_num_batched_tokens: int,
        max_query_len: int,
        times: StepTimes,
        drafter: Drafter | None = None,
        wide_from: int | None = None,
    ) -> None:
        self._cache = cache
        self._budget = max_num_batched_tokens
        self._max_query_len = max_query_len
        self._times = times
        self._drafter = drafter
        self._wide_from = wide_from or 0
        self.waiting = FairQueue()
        self.running: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self.waiting.add(sequence)

    def schedule(self) -> Schedule:
        """Choose the rows of the next step; sequences are admitted while slots and budget last."""
        schedule = Schedule()
        decoding: list[Sequence] = []
        prefills: list[Sequence] = []
        for sequence in self.running:
            is_decoding = sequence.num_pending_tokens == 1 and not sequence.is_embedding
            (decoding if is_decoding else prefills).append(sequence)
        schedule.num_decoding = len(decoding)
        budget = self._budget - len(decoding)
        limit = self._times.max_prompt_tokens(len(decoding))
        chunks = self._prefill(prefills, budget if limit is None else min(budget, limit), schedule)
        rows = [_chunk(sequence, count) for sequence, count in chunks]
        schedule.num_prompt_tokens = sum(count for _, count in chunks)
        drafts: dict[Sequence, list[int]] = {}
        if decoding and not rows and self._drafter:
            if len(decoding) < self._wide_from:
                budget = min(budget, self._wide_from - 1 - len(decoding))
            drafts = self._drafter.draft(decoding, budget, self._max_query_len - 1)
        for sequence in decoding:
            row = _chunk(sequence, 1)
            if sequence in drafts:
                row.token_ids += drafts[sequence]
                row.num_logits = len(row.token_ids)
                schedule.num_drafts += row.num_logits - 1
            self.waiting.charge(sequence.tenant, len(row.token_ids))
            rows.append(row)
        schedule.batches = _batches(rows)
        return schedule

    def finish(self, sequence: Sequence, *, keep_prefix: bool = True) -> None:
        """Take a sequence out, whatever it was doing, and give its slot back.

        Args:
            sequence: waiting or running.
            keep_prefix: whether its state may serve a later prompt.
        """
        if sequence.slot is None:
            self.waiting.take(sequence)
        else:
            self.running.remove(sequence)
            computed = sequence.token_ids[: sequence.num_computed_tokens] if keep_prefix else []
            self._cache.free(sequence.slot, computed)
            sequence.slot = None
        self.waiting.finish(sequence)
        sequence.status = SequenceStatus.FINISHED

    def _prefill(
        self, prefills: list[Sequence], budget: int, schedule: Schedule
    ) -> list[tuple[Sequence, int]]:
        """Share tokens among the prompts that were begun, in their order, and new ones."""
        least = min(_LEAST_ROOM, self._budget)
        if budget < least:
            return []
        chunks = []
        reserved = 0
        if prefills:
            reserved = min(prefills[0].num_pending_tokens, (budget + 1) // 2)
        left, others = budget - reserved, prefills[1:]
        while left >= least:
            sequence = self._next_prefill(others, schedule)
            if sequence is None:
                break
            count = self._chunk_size(sequence, left)
            chunks.append((sequence, count))
            self.waiting.charge(sequence.tenant, count)
            left -= count
        if prefills:
            count = self._chunk_size(prefills[0], reserved + left)
            chunks.append((prefills[0], count))
            self.waiting.charge(prefills[0].tenant, count)
        return chunks

    def _chunk_size(self, sequence: Sequence, room: int) -> int:
        """As many tokens as there are and may be, and never all of them but one."""
        pending = sequence.num_pending_tokens
        count = min(pending, room, self._max_query_len)
        return count - 1 if pending - count == 1 and count > 2 else count

    def _next_prefill(self, begun: list[Sequence], schedule: Schedule) -> Sequence | None:
        """The begun prompt with the least left, or the next in the queue if that is shorter."""
        shortest = min(begun, key=lambda one: one.num_pending_tokens, default=None)
        head = next(self._admissible(), None)
        if head and (not shortest or len(head.token_ids) < shortest.num_pending_tokens):
            self._admit(head, schedule)
            return head
        if shortest:
            begun.remove(shortest)
        return shortest

    def _admissible(self) -> Iterator[Sequence]:
        if self._cache.num_free_slots:
            for sequence in self.waiting.heads():
                if not self._cache.is_worth_waiting(sequence):
                    yield sequence

    def _admit(self, sequence: Sequence, schedule: Schedule) -> None:
        self.waiting.take(sequence)
        allocation = self._cache.allocate(sequence)
        sequence.slot = allocation.slot
        sequence.num_computed_tokens = sequence.num_cached_tokens = allocation.num_cached_tokens
        sequence.status = SequenceStatus.RUNNING
        self.running.append(sequence)
        schedule.admitted.append(sequence)
        if allocation.copy_from is not None:
            copy = PrefixCopy(allocation.copy_from, allocation.slot, allocation.num_cached_tokens)
            schedule.copies.append(copy)


def _chunk(sequence: Sequence, count: int) -> ScheduledRow:
    """The next tokens of a sequence."""
    start = sequence.num_computed_tokens
    token_ids = sequence.token_ids[start : start + count]
    if sequence.wants_every_result:
        return ScheduledRow(sequence, token_ids, count)
    return ScheduledRow(sequence, token_ids, int(start + count == len(sequence.token_ids)))


def _batches(rows: list[ScheduledRow]) -> list[list[ScheduledRow]]:
    """Rows that may run together, each batch in ascending order of slots."""
    rows.sort(key=_slot)
    embedding = [row for row in rows if row.sequence.is_embedding]
    if not embedding:
        return _split(rows)
    return _split([row for row in rows if not row.sequence.is_embedding]) + _split(embedding)


# Attention sees every row as wide as the widest, so one wide chunk beside many decode rows makes
# the graph move rows x width cells in every layer, nearly all of them padding. Running the chunk
# on its own reads all weights once more instead. Measured on the 135M shape in fp32 and int8, one
# and two threads: up to about 16 x 128 cells one run is faster, at 31 x 128 they are equal, at
# 31 x 200 two runs save a tenth to a fifth. And attention takes memory for every cell.
MAX_CELLS = 2048
_WIDE_CHUNK = 64


def _split(rows: list[ScheduledRow]) -> list[list[ScheduledRow]]:
    """One batch, or the narrow rows together and then each wide chunk alone."""
    if not rows:
        return []
    width = max(len(row.token_ids) for row in rows)
    if (_slot(rows[-1]) - _slot(rows[0]) + 1) * width <= MAX_CELLS:
        return [rows]
    narrow = [row for row in rows if len(row.token_ids) <= _WIDE_CHUNK]
    wide = [[row] for row in rows if len(row.token_ids) > _WIDE_CHUNK]
    return [narrow, *wide] if narrow else wide


def _slot(row: ScheduledRow) -> int:
    slot = row.sequence.slot
    assert slot is not None, "only a sequence with a slot is scheduled"
    return slot
