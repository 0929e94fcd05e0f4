import pytest

from everloop.errors import DataError
from feedback.store import Decision, Store


def test_decision_comes_back_as_it_was(store: Store) -> None:
    decision = Decision(
        kind="gate",
        verdict="promote",
        reasons=("quality went up", "nothing was forgotten"),
        numbers={"quality_gain": 0.1},
        champion="everloop:v1",
        candidate="everloop:v2",
        dataset_id="ds-1",
    )
    store.record_decision(decision)
    assert store.decisions() == [decision]


def test_decisions_are_newest_first_and_chosen_by_kind(store: Store) -> None:
    for number, kind in enumerate(("trigger", "gate", "trigger")):
        store.record_decision(
            Decision(kind=kind, verdict=str(number), reasons=(), created_at=float(number))
        )
    assert [decision.verdict for decision in store.decisions()] == ["2", "1", "0"]
    assert [decision.verdict for decision in store.decisions(1, kind="gate")] == ["1"]


def test_decisions_have_ids_of_their_own() -> None:
    first, second = (Decision(kind="gate", verdict="reject", reasons=()) for _ in range(2))
    assert first.id != second.id


def test_number_that_is_not_finite_is_refused(store: Store) -> None:
    decision = Decision(kind="gate", verdict="reject", reasons=(), numbers={"x": float("nan")})
    with pytest.raises(DataError, match="decision on gate: x must be finite, got nan"):
        store.record_decision(decision)
