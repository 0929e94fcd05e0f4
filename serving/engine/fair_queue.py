"""The waiting sequences: first come, first served within a tenant, fair between tenants.

Each tenant has a count of the tokens that the engine ran for it, and the one with the smallest is
next: whoever sends more only waits longer. A tenant that comes back after a pause starts level with
the least served of the others, so that a pause earns no credit. Nobody waits for ever, because only
the counts of those who are served grow.

Source: Sheng et al., Fairness in Serving Large Language Models, OSDI 2024 (virtual token counter).
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from serving.engine.sequence import Sequence


@dataclass(slots=True)
class _Account:
    waiting: deque[Sequence] = field(default_factory=deque)
    num_unfinished: int = 0
    num_tokens: int = 0  # that were run for it


class FairQueue:
    """Waiting sequences of all tenants, and what each tenant has had."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._num_waiting = 0
        self._num_unfinished = 0

    def __len__(self) -> int:
        return self._num_waiting

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence behind those of its tenant."""
        account = self._accounts.setdefault(sequence.tenant, _Account())
        if not account.num_unfinished:
            active = [one.num_tokens for one in self._accounts.values() if one.num_unfinished]
            account.num_tokens = max(account.num_tokens, min(active, default=0))
        account.waiting.append(sequence)
        account.num_unfinished += 1
        self._num_waiting += 1
        self._num_unfinished += 1

    def heads(self) -> Iterator[Sequence]:
        """The first sequence of each tenant that waits, the least served tenant's first."""
        if not self._num_waiting:
            return
        accounts = [account for account in self._accounts.values() if account.waiting]
        if len(accounts) > 1:
            accounts.sort(key=lambda one: (one.num_tokens, one.waiting[0].arrival_time))
        yield from [account.waiting[0] for account in accounts]

    def take(self, sequence: Sequence) -> None:
        """Take out a sequence that waits: one that now runs, or that ends before it ran."""
        waiting = self._accounts[sequence.tenant].waiting
        if waiting[0] is sequence:
            waiting.popleft()
        else:
            waiting.remove(sequence)
        self._num_waiting -= 1

    def charge(self, tenant: str, num_tokens: int) -> None:
        """Count tokens that are run for a tenant."""
        self._accounts[tenant].num_tokens += num_tokens

    def finish(self, sequence: Sequence) -> None:
        """Forget a sequence that was taken out, once it has ended."""
        self._accounts[sequence.tenant].num_unfinished -= 1
        self._num_unfinished -= 1
        if not self._num_unfinished:
            self._accounts.clear()  # nobody is behind anybody
