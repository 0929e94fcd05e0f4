"""Speculative decoding: how many tokens to draft for which row, so that it pays.

One run of the graph checks the drafts of all rows. Which tokens come out does not change (see
row_sampler); how many come out of a step does. A draft takes time from every row of its step, so
how long it may be follows from how often the sequence's table was right and from what drafts were
measured to cost at this number of rows: at many rows that is usually more than they are worth.
"""

from serving.engine.draft_table import DraftTable
from serving.engine.sequence import Sequence
from serving.engine.step_times import StepTimes


class Drafter:
    """Drafts for the decoding rows of a step.

    Args:
        times: say what a draft costs.
        longest: drafts of a row at most; 0 for none.
    """

    def __init__(self, times: StepTimes, longest: int) -> None:
        self._times = times
        self._longest = longest

    def draft(
        self, sequences: list[Sequence], budget: int, widest: int
    ) -> dict[Sequence, list[int]]:
        """Draft tokens for rows that decode; rows for which it would not pay are left out.

        Args:
            sequences: with all their tokens but the last computed.
            budget: drafts of all rows at most.
            widest: drafts of one row at most.
        """
        price = self._times.draft_price(len(sequences))
        drafts = {}
        if self._longest and price < 1:
            for sequence in sequences:
                draft = self._draft(sequence, price, min(budget, widest))
                if draft:
                    drafts[sequence] = draft
                    budget -= len(draft)
        if not drafts:
            self._times.doubt_draft_price(len(sequences))
        return drafts

    def _draft(self, sequence: Sequence, price: float, widest: int) -> list[int]:
        table = sequence.draft_table
        if table is None:
            table = sequence.draft_table = DraftTable()
        table.read(sequence.token_ids, sequence.num_prompt_tokens)
        # Nothing is checked behind the answer's last token.
        left = sequence.params.max_tokens - sequence.num_completion_tokens - 1
        longest = min(self._longest, left, widest)
        return table.draft(sequence.token_ids, worthwhile_length(table.hit_rate, price, longest))


def worthwhile_length(hit_rate: float, price: float, longest: int) -> int:
    """How many tokens to draft.

    The n-th draft stands only if all before it do, so it is worth hit_rate ** n tokens; drafting
    pays as long as that is above its price.

    Args:
        hit_rate: 0 to 1.
        price: of a draft, in tokens that the same time gives without it.
        longest: at most so many.
    """
    worth = 1.0
    for count in range(longest):
        worth *= hit_rate
        if worth <= price:
            return count
    return longest
