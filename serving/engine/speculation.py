"""Speculative decoding: how many tokens to draft for which row, so that it pays.

One run of the graph checks the drafts of all rows. Which tokens come out does not change (see
row_sampler); how many come out of a step does. A draft takes time from every row of its step, so
how long it may be follows from how often the sequence's table was right and from what drafts were
measured to cost at this number of rows: at many rows that is usually more than they are worth.
Where a structured output leaves no choice, what must come is a draft that is never wrong.
"""

from collections.abc import Callable

from everloop.manifest import Manifest
from serving.engine.config import EngineConfig
from serving.engine.draft_table import DraftTable
from serving.engine.row_errors import row_error
from serving.engine.sequence import Sequence
from serving.engine.step_times import StepTimes


class Drafter:
    """Drafts for the decoding rows of a step.

    Args:
        times: say what a draft costs.
        longest: drafts of a row at most.
    """

    def __init__(self, times: StepTimes, longest: int) -> None:
        self._times = times
        self._longest = longest

    def draft(
        self, sequences: list[Sequence], budget: int, widest: int
    ) -> dict[Sequence, list[int]]:
        """Draft tokens for rows that decode; rows for which it would not pay are left out.

        A sequence whose grammar or table raises gets none, and the error that its step ends it by.

        Args:
            sequences: with all their tokens but the last computed.
            budget: drafts of all rows at most.
            widest: drafts of one row at most.
        """
        prices = self._times.draft_prices(len(sequences), self._longest)
        drafts = {}
        if min(prices) < 1:
            for sequence in sequences:
                draft = []
                try:
                    draft = self._draft(sequence, prices[: min(budget, widest)], len(sequences))
                except BaseException as raised:  # noqa: BLE001 - its request alone is told
                    sequence.error = row_error(sequence.seq_id, raised)
                if draft:
                    drafts[sequence] = draft
                    budget -= len(draft)
        if not drafts:
            self._times.doubt_draft_prices(len(sequences))
        return drafts

    def _draft(self, sequence: Sequence, prices: list[float], num_rows: int) -> list[int]:
        # Nothing is checked behind the answer's last token.
        left = sequence.params.max_tokens - sequence.num_completion_tokens - 1
        forced = sequence.logits_processor and sequence.logits_processor.forced_token_ids
        if forced:
            return forced[: best_length(1.0, prices[: min(left, len(forced))], num_rows)]
        table = sequence.draft_table
        if table is None:
            table = sequence.draft_table = DraftTable()
        table.read(sequence.token_ids, sequence.num_prompt_tokens)
        if not table.has_draft:
            return []
        count = best_length(table.hit_rate, prices[:left], num_rows)
        return table.draft(sequence.token_ids, count)


def make_drafter(
    manifest: Manifest, config: EngineConfig, times: StepTimes, is_exact: Callable[[], bool]
) -> Drafter | None:
    """The drafter that a model version may have; None if it may not draft.

    Recurrent state cannot be taken back to before a draft. And a draft must not change an answer:
    in float32 another order of summing moves the last digits and no token, but where activations
    are rounded to 8 bits it can move one, so that there `auto` asks for equal bits.

    Args:
        manifest: of the version.
        config: whether and how far to draft.
        times: say what a draft costs.
        is_exact: whether this machine computes tokens together as it does one by one.
    """
    is_recurrent = any(tensor.kind == "recurrent" for tensor in manifest.state)
    if is_recurrent or config.speculation == "off":
        return None
    is_rounded = manifest.weight_precision != "fp32" or manifest.cache_precision != "fp32"
    if config.speculation == "auto" and is_rounded and not is_exact():
        return None
    return Drafter(times, config.max_draft_tokens)


def best_length(hit_rate: float, prices: list[float], num_rows: int) -> int:
    """How many tokens to draft for a row, so that the step gives most tokens in its time.

    The n-th draft stands only if all before it do, so it is worth hit_rate ** n tokens.

    Args:
        hit_rate: 0 to 1.
        prices: of each draft when 1, 2, … are made, in tokens.
        num_rows: tokens that the step gives without drafts.

    Returns:
        0 if drafts give no more than their price.
    """
    best, best_rate = 0, 1.0
    tokens, worth = float(num_rows), 1.0
    for count, price in enumerate(prices, start=1):
        worth *= hit_rate
        tokens += worth
        rate = tokens / (num_rows + count * price)
        if rate > best_rate:
            best, best_rate = count, rate
    return best
