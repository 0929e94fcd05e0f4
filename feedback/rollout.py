"""Which version to deploy: the candidate that the gate let through, or the one before the champion.

Every change is a row of `deployments`, and a decision of kind `rollout`. The server notices the row
and swaps; this module only writes it.
"""

from collections.abc import Sequence

from everloop.errors import NotFoundError, RefusedError
from feedback.store.decisions import Decision
from feedback.store.deployments import Deployment
from feedback.store.store import Store


def promote(
    store: Store, candidate: str, reason: str, *, gate: Decision | None = None
) -> Deployment:
    """Make a version the champion.

    Args:
        candidate: its tag.
        reason: in words, for the history.
        gate: the decision that let it through; None when a person promotes it.

    Raises:
        NotFoundError: the store has no such version.
        RefusedError: the gate did not let this version through, or it is the champion already.
    """
    if gate is not None and (gate.verdict != "promote" or gate.candidate != candidate):
        raise RefusedError(
            f"{candidate} cannot be promoted by decision {gate.id}: it says {gate.verdict} about "
            f"{gate.candidate}. Pass the gate, or promote by hand."
        )
    champion = store.champion()
    if champion is not None and champion.model_version == candidate:
        raise RefusedError(f"{candidate} is the champion already; nothing changes.")
    store.model_version(candidate)
    dataset_id = gate.dataset_id if gate is not None else None
    decision = _record(store, "promote", reason, candidate, dataset_id)
    return store.deploy(candidate, "promote", reason, gate.id if gate else decision.id)


def rollback(store: Store, reason: str) -> Deployment:
    """Go back to the champion before this one.

    Raises:
        NotFoundError: there was none.
    """
    tag = predecessor(store)
    decision = _record(store, "rollback", reason, tag)
    return store.deploy(tag, "rollback", reason, decision.id)


def predecessor(store: Store) -> str:
    """Tag of the version that a rollback returns to.

    Raises:
        NotFoundError: there is none.
    """
    line = succession(store.deployments()[::-1])
    if len(line) < 2:
        now = f"{line[0]} is the first champion" if line else "there is no champion yet"
        raise NotFoundError(f"nothing to roll back to: {now}.")
    return line[-2]


def succession(history: Sequence[Deployment]) -> tuple[str, ...]:
    """The champions that a rollback can return to, in order; the last is the one of now.

    A rollback takes away what it undid: after promoting a, b and c and rolling back once, the line
    is `("a", "b")`, and the next rollback goes to a, not to c again.

    Args:
        history: deployments, oldest first.
    """
    line: list[str] = []
    for deployment in history:
        tag = deployment.model_version
        if deployment.status == "failed":
            continue
        if deployment.action == "rollback" and tag in line:
            del line[len(line) - line[::-1].index(tag) :]
        elif not line or line[-1] != tag:
            line.append(tag)
    return tuple(line)


def _record(
    store: Store, verdict: str, reason: str, candidate: str, dataset_id: str | None = None
) -> Decision:
    champion = store.champion()
    decision = Decision(
        kind="rollout",
        verdict=verdict,
        reasons=(reason,),
        champion=champion.model_version if champion else None,
        candidate=candidate,
        dataset_id=dataset_id,
    )
    store.record_decision(decision)
    return decision
