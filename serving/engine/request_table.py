"""The unfinished requests of an engine, by id, and whose deadline has passed."""

import math
from collections.abc import Iterator

from everloop.errors import DataError
from serving.engine.sequence import Sequence


class RequestTable:
    """Sequences by request id."""

    def __init__(self) -> None:
        self._sequences: dict[str, Sequence] = {}
        self._next_deadline = math.inf  # of a request that may have finished by now

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences.values())

    def add(self, sequence: Sequence) -> None:
        """Take a sequence.

        Raises:
            DataError: the id is taken.
        """
        if sequence.seq_id in self._sequences:
            raise DataError(f"request id {sequence.seq_id} is still in use.")
        self._sequences[sequence.seq_id] = sequence
        if sequence.deadline is not None:
            self._next_deadline = min(self._next_deadline, sequence.deadline)

    def get(self, request_id: str) -> Sequence | None:
        """The sequence of an unfinished request."""
        return self._sequences.get(request_id)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that has ended."""
        del self._sequences[sequence.seq_id]

    def overdue(self, now: float) -> list[Sequence]:
        """Those whose deadline has passed; costs nothing while none has."""
        if now < self._next_deadline:
            return []
        timed = [(one.deadline, one) for one in self if one.deadline is not None]
        later = [deadline for deadline, _ in timed if deadline > now]
        self._next_deadline = min(later, default=math.inf)
        return [sequence for deadline, sequence in timed if deadline <= now]
