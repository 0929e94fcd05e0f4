"""Scheduling needs no model: a step is simulated by moving num_computed_tokens on."""

import random

import numpy as np
import pytest

from serving.engine import scheduler as scheduler_module
from serving.engine.cache import SlotCache
from serving.engine.sampling_params import SamplingParams
from serving.engine.scheduler import PrefixCopy, Schedule, Scheduler
from serving.engine.sequence import Sequence, SequenceStatus
from serving.engine.speculation import Drafter
from serving.engine.step_times import StepTimes
from tests.serving.engine.conftest import make_sequence


def _sequence(name: str, prompt: int, tenant: str = "") -> Sequence:
    first = sum(name.encode()) * 1000  # prompts share no prefix
    return make_sequence(list(range(first, first + prompt)), name=name, tenant=tenant)


def _scheduler(slots: int = 4, budget: int = 32, width: int = 16) -> Scheduler:
    return Scheduler(SlotCache(slots), budget, width, StepTimes(2.5))


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
    assert _scheduler().schedule() == Schedule()


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
    scheduler = _scheduler(budget=17)
    scheduler.add(_sequence("a", 4))
    _advance(scheduler.schedule())
    scheduler.add(_sequence("b", 12))
    scheduler.add(_sequence("c", 12))
    assert _plan(scheduler.schedule()) == [[("a", 1), ("b", 12), ("c", 4)]]


def test_schedule_goes_on_with_a_begun_prompt_before_admitting_another() -> None:
    scheduler = _scheduler(budget=16)
    scheduler.add(_sequence("a", 20))
    scheduler.add(_sequence("b", 20))
    _advance(scheduler.schedule())
    assert _plan(scheduler.schedule()) == [[("a", 4), ("b", 12)]]


def test_schedule_gives_half_to_the_oldest_prompt_and_the_rest_to_the_shortest() -> None:
    scheduler = _scheduler(slots=5, budget=16)
    scheduler.add(_sequence("a", 100))
    _advance(scheduler.schedule())
    scheduler.add(_sequence("b", 30))
    _advance(scheduler.schedule())
    for name, size in (("c", 3), ("d", 40)):
        scheduler.add(_sequence(name, size))
    assert _plan(scheduler.schedule()) == [[("a", 8), ("b", 5), ("c", 3)]]


def test_schedule_gives_the_oldest_prompt_what_the_others_leave() -> None:
    scheduler = _scheduler(budget=16)
    scheduler.add(_sequence("a", 100))
    _advance(scheduler.schedule())
    scheduler.add(_sequence("b", 3))
    assert _plan(scheduler.schedule()) == [[("a", 13), ("b", 3)]]


def test_schedule_beside_running_answers_takes_small_chunks() -> None:
    scheduler = _scheduler(budget=200, width=200)
    scheduler.add(_sequence("a", 4))
    _advance(scheduler.schedule())
    scheduler._times.record(0.010, num_decoding=1, num_prompt_tokens=0, num_drafts=0)
    scheduler._times.record(0.020, num_decoding=1, num_prompt_tokens=20, num_drafts=0)
    scheduler.add(_sequence("b", 150))
    # 15 ms more than the 10 ms of a decode step, at 0.5 ms a token, down to a multiple of 4.
    assert _plan(scheduler.schedule()) == [[("a", 1), ("b", 28)]]


def test_schedule_takes_tenants_in_turns() -> None:
    scheduler = _scheduler(slots=6, budget=60)
    for number in range(5):
        scheduler.add(_sequence(f"x{number}", 10, tenant="greedy"))
    scheduler.add(_sequence("y", 10, tenant="modest"))
    admitted = [sequence.seq_id for sequence in scheduler.schedule().admitted]
    assert admitted == ["x0", "y", "x1", "x2", "x3", "x4"]


def _same_prompts(scheduler: Scheduler, count: int) -> None:
    for number in range(count):
        scheduler.add(make_sequence(list(range(40)), name=str(number)))


def test_schedule_computes_a_prompt_once_for_all_who_share_it() -> None:
    scheduler = _scheduler(slots=4, budget=16)
    _same_prompts(scheduler, 3)
    plans = []
    copies = []
    while len(plans) < 4:
        schedule = scheduler.schedule()
        plans.append(_plan(schedule))
        copies += schedule.copies
        _advance(schedule)
    assert plans == [
        [[("0", 16)]],
        [[("0", 16)]],
        [[("0", 8), ("1", 8)]],
        [[("0", 1), ("1", 1), ("2", 2)]],
    ]
    assert copies == [PrefixCopy(0, 1, 32), PrefixCopy(0, 2, 38)]


def test_schedule_lets_others_pass_who_wait_for_nothing() -> None:
    scheduler = _scheduler(slots=4, budget=16)
    _same_prompts(scheduler, 2)
    scheduler.add(_sequence("other", 5, tenant="b"))
    _advance(scheduler.schedule())
    assert _plan(scheduler.schedule()) == [[("0", 11), ("other", 5)]]


def test_schedule_stops_waiting_for_a_prompt_that_was_aborted() -> None:
    scheduler = _scheduler(slots=4, budget=16)
    _same_prompts(scheduler, 2)
    _advance(scheduler.schedule())
    scheduler.finish(scheduler.running[0])
    assert _plan(scheduler.schedule()) == [[("1", 16)]]


def _drafting(width: int = 16, wide_from: int | None = None) -> Scheduler:
    times = StepTimes(2.5)
    times.record(0.010, num_decoding=1, num_prompt_tokens=0, num_drafts=0)
    times.record(0.011, num_decoding=1, num_prompt_tokens=0, num_drafts=1)
    return Scheduler(SlotCache(4), 32, width, times, Drafter(times, longest=8), wide_from)


@pytest.mark.parametrize(("wide_from", "drafted"), [(None, 2), (1, 2), (2, 0), (3, 1), (4, 2)])
def test_schedule_drafts_make_no_step_a_wide_one(wide_from: int | None, drafted: int) -> None:
    """A step that is wide without drafts may have them, and one that is not stays so."""
    scheduler = _drafting(wide_from=wide_from)
    scheduler.add(make_sequence([1, 2, 3, 4, 5, 6, 1, 2]))
    _advance(scheduler.schedule())
    scheduler.running[0].token_ids[-1] = 3
    assert scheduler.schedule().num_drafts == drafted


def test_schedule_drafts_what_the_sequence_said_before() -> None:
    scheduler = _drafting()
    scheduler.add(make_sequence([1, 2, 3, 4, 5, 6, 1, 2]))
    schedule = scheduler.schedule()
    [[row]] = schedule.batches
    row.sequence.num_computed_tokens += 8
    row.sequence.token_ids.append(3)
    schedule = scheduler.schedule()
    [[row]] = schedule.batches
    # A draft costs a tenth of a step: 1.75 tokens for 1.2, and 1.875 for 1.3 are not more.
    assert (row.token_ids, row.num_logits, row.num_sampled) == ([3, 4, 5], 3, 3)
    assert (schedule.num_decoding, schedule.num_drafts) == (1, 2)


def test_schedule_drafts_nothing_beside_a_prompt() -> None:
    scheduler = _drafting()
    scheduler.add(make_sequence([1, 2, 3, 4, 5, 6, 1, 2]))
    _advance(scheduler.schedule())
    scheduler.running[0].token_ids[-1] = 3
    scheduler.add(_sequence("b", 4))
    assert _plan(scheduler.schedule()) == [[("a", 1), ("b", 4)]]


def test_schedule_drafts_no_further_than_the_answer_goes() -> None:
    scheduler = _drafting()
    scheduler.add(make_sequence([1, 2, 3, 4, 5, 6, 1, 2], SamplingParams(max_tokens=3)))
    _advance(scheduler.schedule())
    scheduler.running[0].token_ids[-1] = 3
    assert _plan(scheduler.schedule()) == [[("a", 2)]]


def test_schedule_runs_embeddings_apart_and_wants_all_their_results() -> None:
    scheduler = _scheduler()
    embedding = _sequence("e", 5)
    embedding.hidden_sum = np.zeros(2)
    scheduler.add(embedding)
    scheduler.add(_sequence("b", 4))
    schedule = scheduler.schedule()
    assert _plan(schedule) == [[("b", 4)], [("e", 5)]]
    assert [[row.num_logits for row in rows] for rows in schedule.batches] == [[1], [5]]


def test_schedule_wants_all_logits_of_a_prompt_whose_logprobs_are_asked_for() -> None:
    scheduler = _scheduler()
    scheduler.add(make_sequence(list(range(20)), SamplingParams(max_tokens=8, prompt_logprobs=1)))
    wanted = []
    for _ in range(3):
        schedule = scheduler.schedule()
        [[row]] = schedule.batches
        wanted.append((row.num_logits, row.num_sampled))
        row.sequence.num_computed_tokens += len(row.token_ids)
        if row.sequence.num_pending_tokens == 0:
            row.sequence.token_ids.append(1)
    assert wanted == [(16, 0), (4, 1), (1, 1)]


def test_schedule_admits_in_order_of_arrival_while_slots_last() -> None:
    scheduler = _scheduler(slots=2)
    for name in "abc":
        scheduler.add(_sequence(name, 3))
    schedule = scheduler.schedule()
    assert [sequence.seq_id for sequence in schedule.admitted] == ["a", "b"]
    assert [sequence.seq_id for sequence in scheduler.waiting.heads()] == ["c"]


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
    assert (second.slot, second.num_cached_tokens, row.token_ids) == (0, 28, [97028, 97029])


@pytest.mark.parametrize("budget", range(6, 40))
@pytest.mark.parametrize("length", [2, 3, 5, 17, 33])
def test_schedule_computes_no_token_of_a_prompt_alone(budget: int, length: int) -> None:
    scheduler = _scheduler(slots=4, budget=budget)
    for name in "abcd":
        scheduler.add(_sequence(name, length + ord(name) % 3))
    widths = []
    for _ in range(100):
        schedule = scheduler.schedule()
        rows = [row for batch in schedule.batches for row in batch]
        widths += [len(row.token_ids) for row in rows if not row.sequence.num_completion_tokens]
        _advance(schedule)
    assert sum(widths) == sum(length + ord(name) % 3 for name in "abcd")
    assert 1 not in widths


def test_schedule_lets_prompts_wait_for_room_beside_answers() -> None:
    scheduler = _scheduler(slots=4, budget=5)
    for name in "abc":
        scheduler.add(_sequence(name, 2))
    for _ in range(2):
        _advance(scheduler.schedule())
    scheduler.add(_sequence("d", 5))
    assert _plan(scheduler.schedule()) == [[("a", 1), ("b", 1), ("c", 1)]]
    scheduler.finish(scheduler.running[0])
    assert _plan(scheduler.schedule()) == [[("d", 3), ("b", 1), ("c", 1)]]


def _with_chunk_beside_decode(slots: int, prompt: int) -> Schedule:
    """Seven decode rows in the lowest slots, two prompts in the highest, nothing between."""
    scheduler = _scheduler(slots=slots, budget=400, width=256)
    for name in "abcdefg":
        scheduler.add(_sequence(name, 2))
    _advance(scheduler.schedule())
    # A prompt token costs next to nothing, so that chunks are as wide as they may be.
    scheduler._times.record(1.0, num_decoding=7, num_prompt_tokens=0, num_drafts=0)
    scheduler._times.record(1.001, num_decoding=7, num_prompt_tokens=1, num_drafts=0)
    for _ in range(slots - 9):
        scheduler._cache.allocate(make_sequence([1]))
    scheduler.add(_sequence("y", 40))
    scheduler.add(_sequence("z", prompt))
    return scheduler.schedule()


def test_schedule_keeps_one_batch_while_the_padding_is_small() -> None:
    assert len(_with_chunk_beside_decode(slots=16, prompt=128).batches) == 1


def test_schedule_runs_a_wide_chunk_alone_beside_many_rows() -> None:
    narrow = [*((name, 1) for name in "abcdefg"), ("y", 40)]
    schedule = _with_chunk_beside_decode(slots=17, prompt=128)
    assert _plan(schedule) == [narrow, [("z", 128)]]


def test_schedule_runs_a_wide_chunk_alone_without_padding() -> None:
    scheduler = _scheduler(slots=32, budget=256, width=256)
    for _ in range(31):
        scheduler._cache.allocate(make_sequence([1]))
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
    assert (scheduler.running, len(scheduler.waiting)) == ([], 0)
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


class _Play:
    """A random life of a scheduler, which checks in every step what must always hold."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.slots = self.random.randint(1, 6)
        self.budget = self.random.randint(6, 40)
        self.width = self.random.randint(1, 16)
        is_recurrent = self.random.random() < 0.2
        times = StepTimes(2.5)
        self.cache = SlotCache(self.slots, is_recurrent=is_recurrent)
        drafter = None if is_recurrent else Drafter(times, self.random.randint(1, 8))
        self.scheduler = Scheduler(self.cache, self.budget, self.width, times, drafter)
        self.times = times
        self.arrived: list[Sequence] = []
        self.admitted: list[Sequence] = []
        self.num_ended = 0

    def arrive(self) -> None:
        # Few different tokens, so that prompts share prefixes and answers repeat themselves.
        size = self.random.randint(1, 60)
        tokens = [7] * size if self.random.random() < 0.5 else [n % 5 for n in range(size)]
        tokens[self.random.randrange(size) :] = self.random.choices(range(3), k=1)
        params = SamplingParams(max_tokens=self.random.randint(1, 8))
        tenant = self.random.choice("xyz")
        arrival = float(len(self.arrived))
        self.arrived.append(make_sequence(tokens, params, tenant=tenant, arrival_time=arrival))
        self.scheduler.add(self.arrived[-1])

    def check(self, schedule: Schedule) -> None:
        running = self.scheduler.running
        rows = [row for batch in schedule.batches for row in batch]
        owned = [sequence.slot for sequence in running]
        assert len(set(owned)) == len(owned) == self.slots - self.cache.num_free_slots
        assert sum(len(row.token_ids) for row in rows) <= self.budget
        assert all(1 <= len(row.token_ids) <= self.width for row in rows)
        assert len({id(row.sequence) for row in rows}) == len(rows)
        for batch in schedule.batches:
            order = [row.sequence.slot for row in batch]
            assert order == sorted(order)
        decoding = [one for one in running if one.num_pending_tokens == 1]
        assert all(any(row.sequence is one for row in rows) for one in decoding)
        for row in rows:
            sequence = row.sequence
            assert sequence.num_completion_tokens + row.num_sampled <= sequence.params.max_tokens
        assert bool(rows) == bool(running or len(self.scheduler.waiting)), "nothing stands still"

    def copied_state_exists(self, schedule: Schedule, holds: dict[int, list[int]]) -> None:
        for copy in schedule.copies:
            assert len(holds[copy.source]) >= copy.num_tokens
            holds[copy.target] = holds[copy.source][: copy.num_tokens]
        for row in (row for batch in schedule.batches for row in batch):
            sequence, done = row.sequence, row.sequence.num_computed_tokens
            assert sequence.slot is not None
            held = holds.get(sequence.slot, [])[:done]
            assert held == sequence.token_ids[:done], "what counts as computed is in the slot"
            holds[sequence.slot] = held + row.token_ids

    def advance(self, schedule: Schedule) -> None:
        for row in (row for batch in schedule.batches for row in batch):
            sequence, sampled = row.sequence, row.num_sampled
            kept = self.random.randint(1, sampled) if sampled else 0
            sequence.num_computed_tokens += len(row.token_ids) - max(sampled - 1, 0)
            sequence.num_computed_tokens += max(kept - 1, 0)
            # The first tokens are the accepted drafts, the last is new.
            drafts = row.token_ids[len(row.token_ids) - sampled + 1 :] if sampled else []
            sequence.token_ids += [*drafts, self.random.randrange(3)][:kept] if sampled else []
            if kept and kept < sampled:
                sequence.token_ids[-1] = self.random.randrange(3)
        for sequence in self.arrived:
            is_over = sequence.num_completion_tokens >= sequence.params.max_tokens
            if sequence.status is not SequenceStatus.FINISHED and (
                is_over or self.random.random() < 0.01
            ):
                self.scheduler.finish(sequence)
                self.num_ended += 1


@pytest.mark.parametrize("seed", range(30))
def test_random_schedules_hold_the_invariants(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler_module, "MAX_CELLS", 18)
    monkeypatch.setattr(scheduler_module, "_WIDE_CHUNK", 6)
    play = _Play(seed)
    holds: dict[int, list[int]] = {}
    for _ in range(2000):
        if len(play.arrived) < 30 and play.random.random() < 0.4:
            play.arrive()
        schedule = play.scheduler.schedule()
        play.check(schedule)
        play.copied_state_exists(schedule, holds)
        play.admitted += schedule.admitted
        play.times.record(
            play.random.random(),
            schedule.num_decoding,
            schedule.num_prompt_tokens,
            schedule.num_drafts,
        )
        play.advance(schedule)
        if play.num_ended == 30:
            break
    assert play.num_ended == 30, "every request ends"
    assert play.cache.num_free_slots == play.slots, "every slot returns"
    for tenant in "xyz":
        order = [one.arrival_time for one in play.admitted if one.tenant == tenant]
        assert order == sorted(order), "first come, first served within a tenant"
