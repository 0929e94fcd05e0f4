"""Runs of padding before the first request: the session allocates, steps get their first times."""

import time

from serving.engine.model_runner import ModelRunner
from serving.engine.scheduler import ScheduledRow
from serving.engine.sequence_factory import SequenceFactory
from serving.engine.step_times import StepTimes

_CHUNK = 32
_DRAFTS = (1, 4)


class WarmUp:
    """Times steps of padding in slots that nobody owns.

    Args:
        runner: whose session is warmed up.
        factory: makes the padding.
        times: take what was measured.
    """

    def __init__(self, runner: ModelRunner, factory: SequenceFactory, times: StepTimes) -> None:
        self._runner = runner
        self._factory = factory
        self._times = times

    def run(self, num_slots: int, budget: int, max_query_len: int) -> None:
        """Time prompts alone and beside an answer, few and many answers, and drafts.

        Args:
            num_slots: of the cache.
            budget: tokens of a step.
            max_query_len: tokens that a row may add in a step.
        """
        max_chunk = min(budget, max_query_len)
        self._time([max_chunk], num_prompt_tokens=max_chunk)
        for rows in sorted({1, max(num_slots // 4, 1), num_slots}):
            self._time([1] * rows, num_decoding=rows)
        if num_slots > 1:
            chunk = min(_CHUNK, max_query_len, budget - 1)
            self._time([1, chunk], num_decoding=1, num_prompt_tokens=chunk)
        for drafts in _DRAFTS:
            if drafts < max_chunk:
                self._time([1 + drafts], num_decoding=1, num_drafts=drafts)

    def _time(
        self,
        widths: list[int],
        *,
        num_decoding: int = 0,
        num_prompt_tokens: int = 0,
        num_drafts: int = 0,
    ) -> None:
        probes = [self._factory.make_probe(slot, width) for slot, width in enumerate(widths)]
        rows = [ScheduledRow(probe, probe.token_ids, 1) for probe in probes]
        self._runner.run(rows)  # the first run of a shape allocates
        started = time.monotonic()
        self._runner.run(rows)
        seconds = time.monotonic() - started
        self._times.record(seconds, num_decoding, num_prompt_tokens, num_drafts)
