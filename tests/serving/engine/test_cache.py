import pytest

from everloop.errors import EngineError
from serving.engine.cache import MIN_PREFIX_TOKENS, SlotCache

LONG = list(range(100, 140))


def test_allocate_takes_the_lowest_unused_slot() -> None:
    cache = SlotCache(3)
    assert [cache.allocate([1, 2])[0] for _ in range(3)] == [0, 1, 2]


def test_allocate_without_a_free_slot_is_an_error() -> None:
    cache = SlotCache(1)
    cache.allocate([1])
    with pytest.raises(EngineError, match="no cache slot is free"):
        cache.allocate([1])


def test_allocate_reuses_the_longest_cached_prefix_in_place() -> None:
    cache = SlotCache(3)
    for _ in range(3):
        cache.allocate([0])
    for slot, tokens in enumerate((LONG[:20], LONG[:30], [1] * 30)):
        cache.free(slot, tokens)
    assert cache.allocate([*LONG[:25], 7]) == (1, 25)


def test_allocate_ignores_a_prefix_that_is_too_short() -> None:
    cache = SlotCache(2)
    cache.free(cache.allocate(LONG)[0], LONG)
    prompt = [*LONG[: MIN_PREFIX_TOKENS - 1], 7, 7]
    assert cache.allocate(prompt) == (1, 0)


def test_allocate_leaves_the_last_token_of_the_prompt_to_run() -> None:
    cache = SlotCache(1)
    cache.free(cache.allocate(LONG)[0], LONG)
    assert cache.allocate(LONG[:30]) == (0, 29)


def test_allocate_never_takes_the_prefix_of_a_running_sequence() -> None:
    cache = SlotCache(2)
    cache.allocate(LONG)
    assert cache.allocate(LONG) == (1, 0)


def test_allocate_takes_the_prefix_that_was_released_longest_ago() -> None:
    cache = SlotCache(3)
    slots = [cache.allocate([token] * 20)[0] for token in (1, 2, 3)]
    for slot in (slots[1], slots[2], slots[0]):
        cache.free(slot, [slot] * 20)
    assert [cache.allocate([9])[0] for _ in range(3)] == [1, 2, 0]


def test_free_forgets_a_slot_that_holds_too_little() -> None:
    cache = SlotCache(2)
    first, _ = cache.allocate(LONG)
    cache.allocate(LONG)
    cache.free(1, LONG)
    cache.free(first, [1, 2, 3])
    assert cache.allocate([9])[0] == first


def test_free_twice_is_an_error() -> None:
    cache = SlotCache(1)
    cache.free(cache.allocate([1])[0], [])
    with pytest.raises(EngineError, match="slot 0 was given back twice"):
        cache.free(0, [])


def test_clear_forgets_prefixes_and_leaves_owned_slots_alone() -> None:
    cache = SlotCache(2)
    cache.allocate([1])
    cache.free(cache.allocate(LONG)[0], LONG)
    cache.clear()
    assert cache.num_free_slots == 1
    assert cache.allocate(LONG) == (1, 0)


def test_usage_ratio_counts_owned_slots() -> None:
    cache = SlotCache(4)
    cache.allocate([1])
    assert (cache.usage_ratio, cache.num_free_slots) == (0.25, 3)
