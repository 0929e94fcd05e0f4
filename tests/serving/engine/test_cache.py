import pytest

from everloop.errors import EngineError
from serving.engine.cache import MIN_PREFIX_TOKENS, Allocation, SlotCache
from serving.engine.sampling_params import SamplingParams
from serving.engine.sequence import Sequence
from tests.serving.engine.conftest import make_sequence

LONG = list(range(100, 300))


def _sequence(tokens: list[int], computed: int = 0) -> Sequence:
    sequence = make_sequence(tokens)
    sequence.num_computed_tokens = computed
    return sequence


def _cache(*kept: list[int], slots: int | None = None, is_recurrent: bool = False) -> SlotCache:
    """A cache whose first slots were given back in this order, with these tokens."""
    cache = SlotCache(slots or len(kept), is_recurrent=is_recurrent)
    for _ in kept:
        cache.allocate(_sequence([0]))
    for slot, tokens in enumerate(kept):
        cache.free(slot, tokens)
    return cache


def test_allocate_takes_the_lowest_unused_slot() -> None:
    cache = SlotCache(3)
    assert [cache.allocate(_sequence([1, 2])) for _ in range(3)] == [
        Allocation(0),
        Allocation(1),
        Allocation(2),
    ]


def test_allocate_without_a_free_slot_is_an_error() -> None:
    cache = SlotCache(1)
    cache.allocate(_sequence([1]))
    with pytest.raises(EngineError, match="no cache slot is free"):
        cache.allocate(_sequence([1]))


def test_allocate_goes_on_in_place_behind_a_whole_prefix() -> None:
    cache = _cache(LONG[:20], LONG[:30], [1] * 30)
    assert cache.allocate(_sequence(LONG[:40])) == Allocation(1, 30)


def test_allocate_copies_a_part_of_a_prefix_that_is_worth_keeping() -> None:
    cache = _cache([1] * 30, LONG, slots=3)
    assert cache.allocate(_sequence([*LONG[:70], 7, 7])) == Allocation(2, 70, copy_from=1)
    assert cache.allocate(_sequence([*LONG[:70], 8, 8])) == Allocation(0, 70, copy_from=1)
    # The last free slot must be given up, so that its own prefix is taken where it lies.
    assert cache.allocate(_sequence([*LONG[:70], 9, 9])) == Allocation(1, 70)


def test_allocate_copies_from_a_running_sequence_what_it_has_computed() -> None:
    cache = SlotCache(3)
    cache.allocate(_sequence(LONG, computed=90))
    assert cache.allocate(_sequence(LONG)) == Allocation(1, 90, copy_from=0)


def test_allocate_prefers_a_free_slot_to_a_running_one_with_as_much() -> None:
    cache = _cache(LONG[:40], slots=3)
    cache._slots[2].owner = _sequence(LONG, computed=40)
    assert cache.allocate(_sequence(LONG)) == Allocation(0, 40)


def test_allocate_ignores_a_prefix_that_is_too_short() -> None:
    cache = _cache(LONG, slots=2)
    prompt = [*LONG[: MIN_PREFIX_TOKENS - 1], 7, 7]
    assert cache.allocate(_sequence(prompt)) == Allocation(1)


def test_allocate_leaves_two_tokens_of_the_prompt_to_run() -> None:
    assert _cache(LONG[:64]).allocate(_sequence(LONG[:64])) == Allocation(0, 62)
    assert _cache(LONG[:63]).allocate(_sequence(LONG[:64])) == Allocation(0, 62)


def test_allocate_leaves_the_last_token_to_run_behind_a_recurrent_state() -> None:
    cache = SlotCache(1, is_recurrent=True)
    cache.allocate(_sequence(LONG))
    cache.free(0, LONG[:63])
    assert cache.allocate(_sequence(LONG[:64])) == Allocation(0, 63)


@pytest.mark.parametrize("shared", [16, 63, 64, 65, 128, 150])
def test_allocate_finds_where_the_prompt_differs(shared: int) -> None:
    cache = _cache(LONG)
    assert cache.allocate(_sequence([*LONG[:shared], 7, 7])).num_cached_tokens == shared


def test_allocate_for_the_logprobs_of_a_prompt_reuses_nothing() -> None:
    sequence = make_sequence(LONG, SamplingParams(max_tokens=1, prompt_logprobs=0))
    assert _cache(LONG, slots=2).allocate(sequence) == Allocation(1)


def test_allocate_takes_the_prefix_that_was_used_longest_ago() -> None:
    cache = _cache([1] * 20, [2] * 20, LONG)
    cache.allocate(_sequence([*LONG[:50], 7]))  # into slot 0, and uses slot 2 once more
    cache.free(0, [4] * 20)
    assert [cache.allocate(_sequence([9])).slot for _ in range(3)] == [1, 2, 0]


def test_recurrent_state_goes_on_only_behind_all_its_tokens() -> None:
    cache = _cache(LONG[:30], [1] * 30, slots=3, is_recurrent=True)
    assert cache.allocate(_sequence([*LONG[:25], 7])) == Allocation(2)
    assert cache.allocate(_sequence(LONG[:31])) == Allocation(0, 30)


def test_recurrent_state_of_a_running_sequence_is_never_shared() -> None:
    cache = SlotCache(2, is_recurrent=True)
    cache.allocate(_sequence(LONG, computed=90))
    assert not cache.is_worth_waiting(_sequence(LONG))
    assert cache.allocate(_sequence(LONG)) == Allocation(1)


@pytest.mark.parametrize(
    ("computed", "expected"),
    [(0, True), (198 - MIN_PREFIX_TOKENS, True), (198 - MIN_PREFIX_TOKENS + 1, False)],
)
def test_waiting_is_worth_the_tokens_that_a_running_prompt_will_share(
    computed: int, expected: bool
) -> None:
    cache = SlotCache(2)
    cache.allocate(_sequence(LONG, computed=computed))
    assert cache.is_worth_waiting(_sequence(LONG)) is expected


def test_waiting_is_not_worth_what_a_free_slot_holds_already() -> None:
    cache = _cache(LONG, slots=3)
    cache.allocate(_sequence([1] * 40))
    assert not cache.is_worth_waiting(_sequence([1] * 10 + LONG))
    cache._slots[2].owner = _sequence(LONG)
    assert not cache.is_worth_waiting(_sequence(LONG))


def test_free_forgets_a_slot_that_holds_too_little() -> None:
    cache = _cache(LONG, [1, 2, 3])
    assert cache.allocate(_sequence([9])).slot == 1


def test_free_twice_is_an_error() -> None:
    cache = SlotCache(1)
    cache.allocate(_sequence([1]))
    cache.free(0, [])
    with pytest.raises(EngineError, match="slot 0 was given back twice"):
        cache.free(0, [])


def test_clear_forgets_prefixes_and_leaves_owned_slots_alone() -> None:
    cache = _cache(LONG, slots=2)
    cache.allocate(_sequence([1]))
    cache.clear()
    assert cache.num_free_slots == 1
    assert cache.allocate(_sequence(LONG)) == Allocation(0)


def test_usage_ratio_counts_owned_slots() -> None:
    cache = SlotCache(4)
    cache.allocate(_sequence([1]))
    assert (cache.usage_ratio, cache.num_free_slots) == (0.25, 3)
