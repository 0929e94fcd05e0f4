"""Slots of the state cache: who owns which, and which prefixes they hold.

Knows sequences and slot numbers, never tensors. A slot that a finished sequence gives back keeps
its tokens as a cached prefix until another sequence needs the slot. A prompt that begins like one
of them, or like a sequence that still runs, starts behind the shared part.
"""

from dataclasses import dataclass, field

from everloop.errors import EngineError
from serving.engine.sequence import Sequence

# A shorter match saves less than it costs to lose a longer prefix from that slot.
MIN_PREFIX_TOKENS = 16

_BLOCK = 64  # tokens that are compared at once


@dataclass(frozen=True, slots=True)
class Allocation:
    """A slot for a new sequence.

    Attributes:
        num_cached_tokens: of its prompt whose state need not be computed: always fewer than the
            prompt has, because the last one must run to give logits, and not alone (see Scheduler).
        copy_from: the slot whose state of those tokens must be copied into this one first; None
            if it is there.
    """

    slot: int
    num_cached_tokens: int = 0
    copy_from: int | None = None


@dataclass(slots=True)
class _Slot:
    owner: Sequence | None = None
    token_ids: list[int] = field(default_factory=list)  # of a free slot: what its state is of
    used_at: int = 0  # by a count of uses; 0 for nothing worth keeping

    def shared(self, prompt: list[int], at_most: int, at_least: int) -> int:
        """First tokens of the prompt whose state is here; 0 if not more than `at_least`."""
        owner = self.owner
        tokens = self.token_ids if owner is None else owner.token_ids
        size = len(tokens) if owner is None else owner.num_computed_tokens
        return _common_prefix(tokens, prompt, min(size, at_most), at_least)


class SlotCache:
    """A fixed number of slots, each with room for one sequence of the greatest length.

    Args:
        num_slots: how many.
        is_recurrent: a slot's state is that after all its tokens and no fewer, so that it serves
            only prompts that go on from there, and in place.
    """

    def __init__(self, num_slots: int, *, is_recurrent: bool = False) -> None:
        self._slots = [_Slot() for _ in range(num_slots)]
        self._is_recurrent = is_recurrent
        self._num_free = num_slots
        self._num_uses = 0

    @property
    def num_free_slots(self) -> int:
        """How many sequences can be admitted now."""
        return self._num_free

    @property
    def usage_ratio(self) -> float:
        """Owned slots over all slots."""
        return 1 - self._num_free / len(self._slots)

    def allocate(self, sequence: Sequence) -> Allocation:
        """Give a slot to a new sequence.

        The longest prefix that the prompt shares is taken in place if it is all of a free slot, or
        nearly, or if that slot is the one to be given up anyway; else it is copied, from a free
        slot or a running sequence, into the slot to be given up. That is the lowest that holds
        nothing, which keeps the batch narrow, then the one that was used longest ago.

        Raises:
            EngineError: no slot is free.
        """
        free = [number for number, slot in enumerate(self._slots) if slot.owner is None]
        if not free:
            raise EngineError("no cache slot is free; the scheduler admitted too many sequences.")
        victim = min(free, key=lambda number: (self._slots[number].used_at, number))
        allocation = Allocation(victim)
        if sequence.can_reuse_prefix:
            source, shared = self._longest(sequence.token_ids, free)
            if shared >= MIN_PREFIX_TOKENS:
                allocation = self._reuse(source, shared, victim)
        self._slots[allocation.slot] = _Slot(sequence)
        self._num_free -= 1
        return allocation

    def is_worth_waiting(self, sequence: Sequence) -> bool:
        """Whether a running sequence is about to compute a long part of this one's prompt."""
        if self._is_recurrent or not sequence.can_reuse_prefix:
            return False
        prompt, limit = sequence.token_ids, self._most_shared(sequence.token_ids)
        expected = 0
        for slot in self._slots:
            owner = slot.owner
            if owner is not None and owner.num_computed_tokens < owner.num_prompt_tokens:
                size = min(owner.num_prompt_tokens, limit)
                expected = _common_prefix(owner.token_ids, prompt, size, expected) or expected
        if expected < MIN_PREFIX_TOKENS:
            return False
        least = expected - MIN_PREFIX_TOKENS
        return all(slot.shared(prompt, limit, least) == 0 for slot in self._slots)

    def free(self, slot: int, token_ids: list[int]) -> None:
        """Take a slot back; its first tokens are kept as a cached prefix.

        Args:
            slot: an owned slot.
            token_ids: the tokens whose state it holds; empty when the state cannot be trusted.

        Raises:
            EngineError: nobody owns the slot.
        """
        if self._slots[slot].owner is None:
            raise EngineError(f"cache slot {slot} was given back twice.")
        # A slot without a usable prefix is as good as a new one.
        self._slots[slot] = _Slot()
        if len(token_ids) >= MIN_PREFIX_TOKENS:
            self._slots[slot] = _Slot(token_ids=token_ids, used_at=self._count_use())
        self._num_free += 1

    def clear(self) -> None:
        """Forget every cached prefix."""
        for number, slot in enumerate(self._slots):
            if slot.owner is None:
                self._slots[number] = _Slot()

    def _longest(self, prompt: list[int], free: list[int]) -> tuple[int, int]:
        """The slot that shares most with the prompt, a free one before others, and how much."""
        best, longest = 0, 0
        most = self._most_shared(prompt)
        candidates = free if self._is_recurrent else sorted(range(len(self._slots)), key=self._rank)
        for number in candidates:
            shared = self._slots[number].shared(prompt, most, longest)
            if self._is_recurrent and shared < len(self._slots[number].token_ids):
                continue
            if shared > longest:
                best, longest = number, shared
        return best, longest

    def _most_shared(self, prompt: list[int]) -> int:
        return max(len(prompt) - (1 if self._is_recurrent else 2), 0)

    def _rank(self, number: int) -> bool:
        return self._slots[number].owner is not None

    def _reuse(self, source: int, shared: int, victim: int) -> Allocation:
        slot = self._slots[source]
        if slot.owner is None:
            is_kept = len(slot.token_ids) - shared < MIN_PREFIX_TOKENS
            if source == victim or is_kept:
                return Allocation(source, shared)
            slot.used_at = self._count_use()
        return Allocation(victim, shared, copy_from=source)

    def _count_use(self) -> int:
        self._num_uses += 1
        return self._num_uses


def _common_prefix(cached: list[int], prompt: list[int], limit: int, at_least: int) -> int:
    """Tokens that both begin with, up to the limit; 0 unless there are more than `at_least`."""
    if limit <= at_least or cached[at_least] != prompt[at_least]:
        return 0  # so that a crowd of slots with the same beginning is looked through only once
    shared = 0
    while shared < limit:
        end = min(shared + _BLOCK, limit)
        if cached[shared:end] != prompt[shared:end]:
            while cached[shared] == prompt[shared]:
                shared += 1
            break
        shared = end
    return shared if shared > at_least else 0
