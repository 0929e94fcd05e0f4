"""Slots of the state cache: who owns which, and which prefixes the free ones still hold.

Knows tokens and slot numbers, never tensors. A slot that a finished sequence gives back keeps its
tokens as a cached prefix until another sequence needs the slot.
"""

from dataclasses import dataclass

from everloop.errors import EngineError

# A shorter match saves less than it costs to lose a longer prefix from that slot.
MIN_PREFIX_TOKENS = 16


@dataclass(slots=True)
class _Slot:
    token_ids: list[int]  # whose state the slot holds
    is_free: bool = True
    freed_at: int = 0  # number of the release; 0 for never used


class SlotCache:
    """A fixed number of slots, each with room for one sequence of the greatest length."""

    def __init__(self, num_slots: int) -> None:
        self._slots = [_Slot([]) for _ in range(num_slots)]
        self._num_free = num_slots
        self._num_releases = 0

    @property
    def num_free_slots(self) -> int:
        """How many sequences can be admitted now."""
        return self._num_free

    @property
    def usage_ratio(self) -> float:
        """Owned slots over all slots."""
        return 1 - self._num_free / len(self._slots)

    def allocate(self, prompt_token_ids: list[int]) -> tuple[int, int]:
        """Give a slot to a new sequence.

        The free slot that shares the longest prefix with the prompt is taken in place, nothing is
        copied. Without a match it is the lowest slot that was never used, which keeps the batch
        narrow, then the one released longest ago, whose prefix is the least likely to come back.

        Returns:
            The slot, and how many tokens of the prompt it already holds: always fewer than the
            prompt has, because the last one must run to give logits.

        Raises:
            EngineError: no slot is free.
        """
        free = [number for number, slot in enumerate(self._slots) if slot.is_free]
        if not free:
            raise EngineError("no cache slot is free; the scheduler admitted too many sequences.")
        shared, number = max(
            (_common_prefix(self._slots[number].token_ids, prompt_token_ids), -number)
            for number in free
        )
        number = -number
        if shared < MIN_PREFIX_TOKENS:
            shared, number = 0, min(free, key=lambda free: (self._slots[free].freed_at, free))
        self._slots[number] = _Slot([], is_free=False)
        self._num_free -= 1
        return number, shared

    def free(self, slot: int, token_ids: list[int]) -> None:
        """Take a slot back; its first tokens are kept as a cached prefix.

        Args:
            slot: an owned slot.
            token_ids: the tokens whose state it holds; empty when the state cannot be trusted.

        Raises:
            EngineError: nobody owns the slot.
        """
        if self._slots[slot].is_free:
            raise EngineError(f"cache slot {slot} was given back twice.")
        self._num_releases += 1
        # A slot without a usable prefix is as good as a new one.
        is_useful = len(token_ids) >= MIN_PREFIX_TOKENS
        self._slots[slot] = _Slot(
            token_ids if is_useful else [], freed_at=self._num_releases if is_useful else 0
        )
        self._num_free += 1

    def clear(self) -> None:
        """Forget every cached prefix."""
        for slot in self._slots:
            if slot.is_free:
                slot.token_ids, slot.freed_at = [], 0


def _common_prefix(cached: list[int], prompt: list[int]) -> int:
    """Tokens that both begin with, less the prompt's last one."""
    limit = min(len(cached), len(prompt) - 1)
    if cached[:MIN_PREFIX_TOKENS] != prompt[:MIN_PREFIX_TOKENS]:
        return 0
    for index in range(limit):
        if cached[index] != prompt[index]:
            return index
    return max(limit, 0)
