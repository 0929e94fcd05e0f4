"""Tokens of rows with chunks, with drafts and with the logits of a prompt."""

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models

from serving.engine.detokenizer import Detokenizer
from serving.engine.row_sampler import SampledRow, sample_rows
from serving.engine.sampling_params import SamplingParams
from serving.engine.scheduler import ScheduledRow
from serving.engine.sequence import Sequence
from serving.engine.vocabulary import Vocabulary

VOCABULARY = Vocabulary(Tokenizer(models.BPE(vocab={}, merges=[])))
GREEDY = SamplingParams(max_tokens=8, temperature=0.0)


def _row(tokens: list[int], *, computed: int, num_logits: int, drafts: int = 0) -> ScheduledRow:
    """The rest of a sequence whose last `drafts` tokens are only drafted."""
    known = tokens[: len(tokens) - drafts]
    sequence = Sequence("a", known, GREEDY, 0, Detokenizer(VOCABULARY), 0.0)
    sequence.num_computed_tokens = computed
    return ScheduledRow(sequence, tokens[computed:], num_logits)


def _logits(*winners: int) -> NDArray[np.float32]:
    """Logits in which these tokens win."""
    logits = np.zeros((len(winners), 10), np.float32)
    logits[range(len(winners)), winners] = 1
    return logits


def test_sample_rows_gives_a_token_to_rows_at_their_end_only() -> None:
    middle = _row([1, 2, 3], computed=0, num_logits=0)
    middle.sequence.token_ids += [4, 5]
    rows = [_row([1, 2, 3], computed=2, num_logits=1), middle, _row([1], computed=0, num_logits=1)]
    assert sample_rows(rows, _logits(7, 8)) == [SampledRow([7]), SampledRow([]), SampledRow([8])]


def test_sample_rows_keeps_drafts_up_to_the_first_wrong_one() -> None:
    row = _row([1, 2, 5, 6, 7], computed=1, num_logits=4, drafts=3)
    assert sample_rows([row], _logits(5, 6, 9, 8)) == [SampledRow([5, 6, 9], num_accepted=2)]


def test_sample_rows_adds_a_token_behind_drafts_that_all_stand() -> None:
    row = _row([1, 2, 5, 6], computed=1, num_logits=3, drafts=2)
    assert sample_rows([row], _logits(5, 6, 8)) == [SampledRow([5, 6, 8], num_accepted=2)]


def test_sample_rows_with_a_wrong_first_draft_gives_one_token() -> None:
    rows = [
        _row([1, 2, 5], computed=1, num_logits=2, drafts=1),
        _row([1], computed=0, num_logits=1),
    ]
    assert sample_rows(rows, _logits(9, 8, 7)) == [SampledRow([9]), SampledRow([7])]


def test_sample_rows_takes_the_last_of_a_prompts_logits() -> None:
    rows = [_row([1, 2, 3], computed=0, num_logits=3), _row([4], computed=0, num_logits=1)]
    assert sample_rows(rows, _logits(2, 3, 7, 8)) == [SampledRow([7]), SampledRow([8])]
