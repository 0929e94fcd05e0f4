"""Scheduling needs no model: a step is simulated by moving num_computed_tokens on."""

import random

import pytest
from tokenizers import Tokenizer, models

from serving.engine import scheduler as scheduler_module
from serving.engine.cache import SlotCache
from serving.engine.detokenizer import Detokenizer
from serving.engine.sampling_params import SamplingParams
from serving.engine.scheduler import Schedule, Scheduler
from serving.engine.sequence import Sequence, SequenceStatus
from serving.engine.vocabulary import Vocabulary

VOCABULARY = Vocabulary(Tokenizer(models.BPE(vocab={}, merges=[])))


def _sequence(name: str, prompt: int) -> Sequence:
    first = sum(name.encode()) * 1000  # prompts share no prefix
    tokens = list(range(first, first + prompt))
    return Sequence(name, tokens, SamplingParams(max_tokens=8), 0, Detokenizer(VOCABULARY), 0.0)


def _scheduler(slots: int = 4, budget: int = 32, width: int = 16) -> Scheduler:
    return Scheduler(SlotCache(slots), budget, width)


def _advance(schedule: Schedule) -> None:
    for row in (row for rows in schedule.batches for row in rows):
        row.sequence.num_computed_tokens += len(row.token_ids)
        if row.num_logits:
            row.sequence.token_ids.append(1)


def _plan(schedule: Schedule) -> list[list[tuple[str, int]]]:
    return [
        [(row.sequence.seq_id, len(row.token_ids)) for row in rows] for rows in schedule.batches
    ]


def test_schedule_of_nothing_is_empty() -> None:
    assert _scheduler().schedule() == Schedule([], [])


def test_schedule_cuts_a_prompt_into_chunks_of_the_greatest_width() -> None:
    scheduler = _scheduler()
    scheduler.add(_sequence("a", 35))
    chunks = []
    for _ in range(3):
        schedule = scheduler.schedule()
        [[row]] = schedule.batches
        chunks.append((len(row.token_ids), row.num_logits))
        _advance(schedule)
    assert chunks == [(16, 0), (16, 0), (3, 1)]


def test_schedule_decodes_first_and_fills_the_budget_with_prompts() -> None:
    scheduler = _scheduler(budget=20)
    scheduler.add(_sequence("a", 4))
    _advance(scheduler.schedule())
    scheduler.add(_sequence("b", 12))
    scheduler.add(_sequence("c", 12))
    assert _plan(scheduler.schedule()) == [[("a", 1), ("b", 12), ("c", 7)]]


def test_schedule_goes_on_with_a_begun_prompt_before_admitting_another() -> None:
    scheduler = _scheduler(budget=16)
    scheduler.add(_sequence("a", 20))
    scheduler.add(_sequence("b", 20))
    _advance(scheduler.schedule())
    assert _plan(scheduler.schedule()) == [[("a", 4), ("b", 12)]]


def test_schedule_admits_in_order_of_arrival_while_slots_last() -> None:
    scheduler = _scheduler(slots=2)
    for name in "abc":
        scheduler.add(_sequence(name, 3))
    schedule = scheduler.schedule()
    assert [sequence.seq_id for sequence in schedule.admitted] == ["a", "b"]
    assert [sequence.seq_id for sequence in scheduler.waiting] == ["c"]


def test_schedule_starts_behind_a_cached_prefix() -> None:
    scheduler = _scheduler()
    first = _sequence("a", 30)
    scheduler.add(first)
    for _ in range(2):
        _advance(scheduler.schedule())
    scheduler.finish(first)
    second = _sequence("a", 30)
    scheduler.add(second)
    [[row]] = scheduler.schedule().batches
    assert (second.slot, second.num_cached_tokens, row.token_ids) == (0, 29, [97029])


def _with_chunk_beside_decode(slots: int, prompt: int) -> Schedule:
    """Seven decode rows in the lowest slots, two prompts in the highest, nothing between."""
    scheduler = _scheduler(slots=slots, budget=400, width=256)
    for name in "abcdefg":
        scheduler.add(_sequence(name, 2))
    _advance(scheduler.schedule())
    for _ in range(slots - 9):
        scheduler._cache.allocate([1])
    scheduler.add(_sequence("y", 40))
    scheduler.add(_sequence("z", prompt))
    return scheduler.schedule()


def test_schedule_keeps_one_batch_while_the_padding_is_small() -> None:
    assert len(_with_chunk_beside_decode(slots=16, prompt=256).batches) == 1


def test_schedule_runs_a_wide_chunk_alone_beside_many_rows() -> None:
    narrow = [*((name, 1) for name in "abcdefg"), ("y", 40)]
    schedule = _with_chunk_beside_decode(slots=17, prompt=256)
    assert _plan(schedule) == [narrow, [("z", 256)]]


def test_schedule_runs_a_wide_chunk_alone_without_padding() -> None:
    scheduler = _scheduler(slots=32, budget=256, width=256)
    for _ in range(31):
        scheduler._cache.allocate([1])
    scheduler.add(_sequence("a", 256))
    assert _plan(scheduler.schedule()) == [[("a", 256)]]


def test_finish_takes_a_sequence_out_wherever_it_is() -> None:
    scheduler = _scheduler(slots=1)
    running, waiting = _sequence("a", 3), _sequence("b", 3)
    scheduler.add(running)
    scheduler.add(waiting)
    scheduler.schedule()
    scheduler.finish(waiting)
    scheduler.finish(running)
    assert (scheduler.running, list(scheduler.waiting)) == ([], [])
    assert waiting.status is running.status is SequenceStatus.FINISHED


def test_finish_without_trust_keeps_no_prefix() -> None:
    scheduler = _scheduler()
    first = _sequence("a", 16)
    scheduler.add(first)
    _advance(scheduler.schedule())
    scheduler.finish(first, keep_prefix=False)
    scheduler.add(_sequence("a", 30))
    [second] = scheduler.schedule().admitted
    assert second.num_cached_tokens == 0


@pytest.mark.parametrize("seed", range(20))
def test_random_schedules_hold_the_invariants(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler_module, "_MAX_CELLS", 18)
    monkeypatch.setattr(scheduler_module, "_WIDE_CHUNK", 6)
    random_ = random.Random(seed)
    slots, budget, width = random_.randint(1, 6), random_.randint(6, 40), random_.randint(1, 16)
    cache = SlotCache(slots)
    scheduler = Scheduler(cache, budget, width)
    arrived: list[Sequence] = []
    admitted: list[Sequence] = []
    ended = 0
    for _ in range(2000):
        if len(arrived) < 30 and random_.random() < 0.4:
            arrived.append(_sequence(random_.choice("xyz"), random_.randint(1, 60)))
            scheduler.add(arrived[-1])
        schedule = scheduler.schedule()
        admitted += schedule.admitted
        rows = [row for batch in schedule.batches for row in batch]
        owned = [sequence.slot for sequence in scheduler.running]
        assert len(set(owned)) == len(owned) == slots - cache.num_free_slots
        assert sum(len(row.token_ids) for row in rows) <= budget
        assert all(1 <= len(row.token_ids) <= width for row in rows)
        assert len({id(row.sequence) for row in rows}) == len(rows)
        for batch in schedule.batches:
            order = [row.sequence.slot for row in batch]
            assert order == sorted(order)
        decoding = [one for one in scheduler.running if one.num_pending_tokens == 1]
        assert all(any(row.sequence is one for row in rows) for one in decoding)
        _advance(schedule)
        for sequence in [*scheduler.running, *scheduler.waiting]:
            if sequence.num_completion_tokens >= 8 or random_.random() < 0.01:
                scheduler.finish(sequence)
                ended += 1
        if ended == 30:
            break
    assert ended == 30, "every request ends"
    assert cache.num_free_slots == slots, "every slot returns"
    in_order = [sequence for sequence in arrived if sequence in admitted]
    assert admitted == in_order, "first come, first served"
