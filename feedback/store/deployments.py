"""The history of champions: which version answers, since when, and what it replaced.

A deployment is first `pending`; the server that has swapped marks it `live`, or `failed` with the
reason. The newest that has not failed names the champion. Which version to deploy is decided in
`feedback/rollout.py`.
"""

import time
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Select, insert, select, update

from everloop.errors import NotFoundError
from feedback.store.database import Queries, reading, writing
from feedback.store.tables import deployments, model_versions

Action = Literal["promote", "rollback"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One change of the champion.

    Attributes:
        previous: tag of the version that answered before.
        detail: what the server said about it, when it failed.
    """

    id: int
    created_at: float
    model_version: str
    previous: str | None
    action: Action
    reason: str
    decision_id: str | None
    status: Literal["pending", "live", "failed"]
    detail: str | None


class DeploymentQueries(Queries):
    """Adds and reads deployments."""

    def deploy(
        self, tag: str, action: Action, reason: str, decision_id: str | None = None
    ) -> Deployment:
        """Make a version the champion; an older deployment that still waits has failed.

        Raises:
            NotFoundError: the store has no such version.
        """
        with writing(self.engine) as connection:
            known = select(model_versions.c.tag).where(model_versions.c.tag == tag)
            if connection.execute(known).one_or_none() is None:
                raise NotFoundError(
                    f"model version {tag} cannot be deployed: the store does not know it. Record "
                    "it first, or choose one of `everloop models list`."
                )
            live = _newest(connection, deployments.c.status == "live")
            superseded = update(deployments).where(deployments.c.status == "pending")
            connection.execute(
                superseded.values(status="failed", detail=f"superseded by {tag} before it was live")
            )
            added = insert(deployments).values(
                created_at=time.time(),
                model_version=tag,
                previous=None if live is None else live.model_version,
                action=action,
                reason=reason,
                decision_id=decision_id,
                status="pending",
            )
            row = connection.execute(added.returning(*deployments.c)).mappings().one()
            return Deployment(**row)

    def champion(self) -> Deployment | None:
        """The deployment that names the champion; None before the first."""
        with reading(self.engine) as connection:
            return _newest(connection, deployments.c.status != "failed")

    def pending_deployment(self) -> Deployment | None:
        """The deployment that a server has still to make live."""
        champion = self.champion()
        return champion if champion is not None and champion.status == "pending" else None

    def mark_deployment(
        self, deployment_id: int, status: Literal["live", "failed"], detail: str | None = None
    ) -> None:
        """Say what became of a deployment; one that another has superseded stays failed.

        Raises:
            NotFoundError: there is no such deployment.
        """
        with writing(self.engine) as connection:
            if _newest(connection, deployments.c.id == deployment_id) is None:
                raise NotFoundError(f"no deployment {deployment_id} in the store.")
            waiting = (deployments.c.id == deployment_id) & (deployments.c.status != "failed")
            change = update(deployments).where(waiting)
            connection.execute(change.values(status=status, detail=detail))

    def deployments(self, limit: int | None = None) -> list[Deployment]:
        """List the history, newest first."""
        with reading(self.engine) as connection:
            rows = connection.execute(_history().limit(limit)).mappings()
            return [Deployment(**row) for row in rows]


def _history() -> Select[Any]:
    return select(deployments).order_by(deployments.c.id.desc())


def _newest(connection: Connection, condition: Any) -> Deployment | None:
    row = connection.execute(_history().where(condition).limit(1)).mappings().one_or_none()
    return None if row is None else Deployment(**row)
