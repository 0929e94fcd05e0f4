import random

import pytest

from serving.engine.draft_table import DraftTable


def _draft(token_ids: list[int], count: int) -> list[int]:
    table = DraftTable()
    table.read(token_ids, len(token_ids))
    return table.draft(token_ids, count)


def _slow_draft(token_ids: list[int], count: int) -> list[int]:
    """Search the whole sequence for its last three tokens."""
    tokens = list(token_ids)
    for _ in range(count):
        found = [
            place
            for place in range(3, len(token_ids))
            if token_ids[place - 3 : place] == token_ids[-3:]
        ]
        if not found:
            return []
        tokens.append(tokens[found[-1] + len(tokens) - len(token_ids)])
    return tokens[len(token_ids) :]


@pytest.mark.parametrize(
    ("token_ids", "count", "expected"),
    [
        ([1, 2, 3, 4, 5, 1, 2, 3], 3, [4, 5, 1]),
        ([1, 2, 3, 4, 1, 2, 3, 9, 1, 2, 3], 2, [9, 1]),
        ([7, 7, 7, 7], 5, [7, 7, 7, 7, 7]),
        ([1, 2, 1, 2, 1, 2], 5, [1, 2, 1, 2, 1]),
        ([1, 2, 3, 4, 5], 3, []),
        ([1, 2], 3, []),
        ([1, 2, 3, 4, 1, 2, 3], 0, []),
    ],
)
def test_draft_is_what_followed_the_last_three_tokens_before(
    token_ids: list[int], count: int, expected: list[int]
) -> None:
    assert _draft(token_ids, count) == expected


def test_draft_equals_a_search_of_the_whole_sequence() -> None:
    random_ = random.Random(0)
    for _ in range(300):
        token_ids = [random_.randrange(4) for _ in range(random_.randint(1, 60))]
        assert _draft(token_ids, 6) == _slow_draft(token_ids, 6)


def test_read_bit_by_bit_is_read_at_once() -> None:
    token_ids = [random.Random(1).randrange(3) for _ in range(80)]
    table = DraftTable()
    for size in range(len(token_ids) + 1):
        table.read(token_ids[:size], 0)
    assert table.draft(token_ids, 9) == _draft(token_ids, 9)


def test_hit_rate_rises_with_a_text_that_repeats_itself() -> None:
    table = DraftTable()
    table.read([1, 2, 3, 4] * 10, 8)
    assert table.hit_rate > 0.9


def test_hit_rate_falls_with_a_text_that_goes_other_ways() -> None:
    table = DraftTable()
    token_ids = [token for number in range(10, 30) for token in (1, 2, 3, number)]
    table.read(token_ids, 4)
    assert table.hit_rate < 0.1


def test_hit_rate_looks_at_the_answer_alone() -> None:
    table = DraftTable()
    table.read([1, 2, 3, 4] * 10, 40)
    assert table.hit_rate == 0.5
