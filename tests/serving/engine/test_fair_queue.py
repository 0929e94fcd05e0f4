import random

from serving.engine.fair_queue import FairQueue
from serving.engine.sequence import Sequence
from tests.serving.engine.conftest import make_sequence


def _add(queue: FairQueue, tenant: str, arrival: float = 0.0) -> Sequence:
    sequence = make_sequence([1], tenant=tenant, arrival_time=arrival)
    queue.add(sequence)
    return sequence


def _serve(queue: FairQueue, num_tokens: int) -> str:
    """Take the next sequence and run it to its end."""
    sequence = next(queue.heads())
    queue.take(sequence)
    queue.charge(sequence.tenant, num_tokens)
    queue.finish(sequence)
    return sequence.tenant


def test_heads_of_one_tenant_come_in_order_of_arrival() -> None:
    queue = FairQueue()
    first, second = _add(queue, "a"), _add(queue, "a")
    assert list(queue.heads()) == [first]
    queue.take(first)
    assert list(queue.heads()) == [second]
    assert len(queue) == 1


def test_heads_begin_with_the_tenant_that_had_least() -> None:
    queue = FairQueue()
    for tenant in "aab":
        _add(queue, tenant)
    queue.charge("a", 10)
    assert [head.tenant for head in queue.heads()] == ["b", "a"]


def test_heads_of_equal_tenants_come_in_order_of_arrival() -> None:
    queue = FairQueue()
    _add(queue, "a", arrival=2.0)
    _add(queue, "b", arrival=1.0)
    assert [head.tenant for head in queue.heads()] == ["b", "a"]


def test_take_from_the_middle_leaves_the_others_in_order() -> None:
    queue = FairQueue()
    first, second, third = (_add(queue, "a") for _ in range(3))
    queue.take(second)
    queue.finish(second)
    assert list(queue.heads()) == [first]
    queue.take(first)
    assert list(queue.heads()) == [third]


def test_tenant_that_returns_has_no_credit_for_its_pause() -> None:
    queue = FairQueue()
    for _ in range(9):
        _add(queue, "busy")
    for _ in range(3):
        _serve(queue, 100)
    for _ in range(3):
        _add(queue, "back", arrival=1.0)
    # Level with the busy one at 300, not 300 tokens ahead of it.
    assert [_serve(queue, 100) for _ in range(5)] == ["busy", "back", "busy", "back", "busy"]


def test_tenant_that_returns_at_once_keeps_its_debt() -> None:
    queue = FairQueue()
    for _ in range(3):
        _add(queue, "many")
    _add(queue, "large", arrival=-1.0)
    assert _serve(queue, 1000) == "large"
    _add(queue, "large")
    assert [_serve(queue, 100) for _ in range(4)] == ["many", "many", "many", "large"]


def test_idle_queue_forgets_who_had_what() -> None:
    queue = FairQueue()
    _add(queue, "a")
    _serve(queue, 1000)
    assert queue._accounts == {}
    assert list(queue.heads()) == []


def test_backlogged_tenants_get_equal_shares_whatever_they_send() -> None:
    random_ = random.Random(0)
    queue = FairQueue()
    size = {"small": 10, "large": 500, "mixed": 100}
    had = dict.fromkeys(size, 0)
    for tenant in size:
        for _ in range(20):
            _add(queue, tenant)
    for _ in range(3000):
        tenant = next(queue.heads()).tenant
        tokens = random_.randint(1, 2 * size[tenant])
        assert _serve(queue, tokens) == tenant
        had[tenant] += tokens
        _add(queue, tenant)
        # Two that never run dry differ by at most one request of the largest kind.
        assert max(had.values()) - min(had.values()) <= 1000
