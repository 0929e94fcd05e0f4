import pytest

from everloop.errors import DataError
from serving.engine.request_table import RequestTable
from serving.engine.sequence import Sequence
from tests.serving.engine.conftest import make_sequence


def _sequence(name: str, deadline: float | None = None) -> Sequence:
    sequence = make_sequence([1], name=name)
    sequence.deadline = deadline
    return sequence


def test_table_finds_requests_by_id_until_they_are_removed() -> None:
    table = RequestTable()
    sequence = _sequence("a")
    table.add(sequence)
    assert (table.get("a"), len(table), list(table)) == (sequence, 1, [sequence])
    table.remove(sequence)
    assert (table.get("a"), len(table)) == (None, 0)


def test_add_refuses_an_id_in_use() -> None:
    table = RequestTable()
    table.add(_sequence("a"))
    with pytest.raises(DataError, match="request id a is still in use"):
        table.add(_sequence("a"))


def test_overdue_gives_those_whose_deadline_has_passed() -> None:
    table = RequestTable()
    late, later, never = _sequence("late", 5.0), _sequence("later", 7.0), _sequence("never")
    for sequence in (later, never, late):
        table.add(sequence)
    assert table.overdue(4.9) == []
    assert table.overdue(5.0) == [late]
    table.remove(late)
    assert table.overdue(6.0) == []
    assert table.overdue(8.0) == [later]


def test_overdue_after_a_request_that_ended_in_time() -> None:
    table = RequestTable()
    early, late = _sequence("early", 5.0), _sequence("late", 7.0)
    table.add(early)
    table.add(late)
    table.remove(early)
    assert table.overdue(6.0) == []
    assert table.overdue(7.0) == [late]
