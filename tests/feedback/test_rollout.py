from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.errors import NotFoundError, RefusedError
from everloop.registry import ModelVersion
from feedback.rollout import promote, rollback, succession
from feedback.store import Decision, Deployment, Store


@pytest.fixture
def ready(store: Store, version: Callable[..., ModelVersion]) -> Store:
    for name in ("v1", "v2", "v3"):
        store.record_model_version(version(name))
    return store


def go_live(store: Store, tag: str) -> None:
    store.mark_deployment(promote(store, tag, "better").id, "live")


def champion(store: Store) -> str | None:
    deployment = store.champion()
    return None if deployment is None else deployment.model_version


def gate(verdict: str, candidate: str) -> Decision:
    return Decision(kind="gate", verdict=verdict, reasons=("numbers",), candidate=candidate)


def test_promotion_is_a_deployment_and_a_decision(ready: Store) -> None:
    go_live(ready, "everloop:v1")
    decision = gate("promote", "everloop:v2")
    ready.record_decision(decision)
    deployment = promote(ready, "everloop:v2", "quality went up", gate=decision)
    assert ready.pending_deployment() == deployment
    assert (deployment.previous, deployment.decision_id) == ("everloop:v1", decision.id)
    newest = ready.decisions(1, kind="rollout")[0]
    assert (newest.verdict, newest.reasons) == ("promote", ("quality went up",))
    assert (newest.champion, newest.candidate) == ("everloop:v1", "everloop:v2")


def test_promotion_by_hand_points_at_its_own_decision(ready: Store) -> None:
    deployment = promote(ready, "everloop:v1", "the first")
    assert deployment.decision_id == ready.decisions(1, kind="rollout")[0].id


@pytest.mark.parametrize(
    ("verdict", "candidate"), [("reject", "everloop:v2"), ("promote", "everloop:v3")]
)
def test_promotion_that_the_gate_did_not_allow_is_refused(
    ready: Store, verdict: str, candidate: str
) -> None:
    with pytest.raises(RefusedError, match=f"it says {verdict} about {candidate}"):
        promote(ready, "everloop:v2", "please", gate=gate(verdict, candidate))
    assert ready.deployments() == []


def test_promotion_of_an_unknown_version_is_refused(ready: Store) -> None:
    with pytest.raises(NotFoundError, match="no model version everloop:v9"):
        promote(ready, "everloop:v9", "please")
    assert (ready.deployments(), ready.decisions()) == ([], [])


def test_promotion_of_the_champion_is_refused(ready: Store) -> None:
    go_live(ready, "everloop:v1")
    with pytest.raises(RefusedError, match="champion already"):
        promote(ready, "everloop:v1", "again")


def test_rollback_goes_to_the_champion_before(ready: Store) -> None:
    go_live(ready, "everloop:v1")
    go_live(ready, "everloop:v2")
    deployment = rollback(ready, "answers got worse")
    assert (deployment.action, deployment.model_version) == ("rollback", "everloop:v1")
    assert (deployment.previous, deployment.reason) == ("everloop:v2", "answers got worse")
    assert ready.decisions(1)[0].verdict == "rollback"
    assert champion(ready) == "everloop:v1"


def test_second_rollback_goes_further_back(ready: Store) -> None:
    for tag in ("everloop:v1", "everloop:v2", "everloop:v3"):
        go_live(ready, tag)
    for wanted in ("everloop:v2", "everloop:v1"):
        deployment = rollback(ready, "worse")
        ready.mark_deployment(deployment.id, "live")
        assert champion(ready) == wanted
    with pytest.raises(NotFoundError, match="everloop:v1 is the first champion"):
        rollback(ready, "still worse")


def test_rollback_passes_over_what_never_went_live(ready: Store) -> None:
    go_live(ready, "everloop:v1")
    failed = promote(ready, "everloop:v2", "better")
    ready.mark_deployment(failed.id, "failed", "golden.json differs")
    go_live(ready, "everloop:v3")
    assert rollback(ready, "worse").model_version == "everloop:v1"


def test_rollback_of_a_promotion_that_still_waits_keeps_the_live_one(ready: Store) -> None:
    go_live(ready, "everloop:v1")
    promote(ready, "everloop:v2", "better")
    assert rollback(ready, "changed my mind").model_version == "everloop:v1"
    assert champion(ready) == "everloop:v1"


@pytest.mark.parametrize("history", [[], ["everloop:v1"]])
def test_rollback_with_nothing_before_is_refused(ready: Store, history: list[str]) -> None:
    for tag in history:
        go_live(ready, tag)
    with pytest.raises(NotFoundError, match="nothing to roll back to"):
        rollback(ready, "worse")
    assert len(ready.deployments()) == len(history)


def deployment(number: int, tag: str, action: str, status: str = "live") -> Deployment:
    return Deployment(
        id=number, created_at=0.0, model_version=tag, previous=None, action=action, reason="",
        decision_id=None, status=status, detail=None,
    )  # fmt: skip


def test_succession_of_the_worked_example() -> None:
    history = [deployment(n, tag, "promote") for n, tag in enumerate("abc")]
    assert succession([*history, deployment(3, "b", "rollback")]) == ("a", "b")


def test_version_promoted_again_stands_on_top() -> None:
    history = [deployment(n, tag, "promote") for n, tag in enumerate("aba")]
    assert succession(history) == ("a", "b", "a")


@given(st.lists(st.sampled_from(["a", "b", "c", "back"]), max_size=12))
def test_succession_is_a_stack(steps: list[str]) -> None:
    history: list[Deployment] = []
    stack: list[str] = []
    for number, step in enumerate(steps):
        if step == "back" and len(stack) > 1:
            stack.pop()
            history.append(deployment(number, stack[-1], "rollback"))
        elif step != "back" and step not in stack[-1:]:
            stack.append(step)
            history.append(deployment(number, step, "promote"))
    assert succession(history) == tuple(stack)
