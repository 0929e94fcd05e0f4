"""Decisions of the loop: what was decided, why, on which numbers. Rows are added, never changed."""

import math
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import select

from everloop.errors import DataError
from feedback.store.database import Queries, insert_new, reading, writing
from feedback.store.tables import decisions

Kind = Literal["trigger", "gate", "rollout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One decision with its reasons in words and its numbers."""

    kind: Kind
    verdict: str
    reasons: tuple[str, ...]
    numbers: Mapping[str, float] = field(default_factory=dict)
    champion: str | None = None
    candidate: str | None = None
    dataset_id: str | None = None
    id: str = field(default_factory=lambda: f"decision-{uuid.uuid4().hex}")
    created_at: float = field(default_factory=time.time)


class DecisionQueries(Queries):
    """Records and reads decisions."""

    def record_decision(self, decision: Decision) -> None:
        """Keep a decision.

        Raises:
            DataError: one of its numbers is not finite.
        """
        for name, number in decision.numbers.items():
            if not math.isfinite(number):
                raise DataError(
                    f"decision on {decision.kind}: {name} must be finite, got {number}."
                )
        row: dict[str, Any] = {name: getattr(decision, name) for name in _COLUMNS}
        row |= {"reasons": list(decision.reasons), "numbers": dict(decision.numbers)}
        with writing(self.engine) as connection:
            insert_new(connection, decisions, [row])

    def decisions(self, limit: int | None = None, *, kind: Kind | None = None) -> list[Decision]:
        """List decisions, newest first."""
        query = select(decisions).order_by(decisions.c.created_at.desc(), decisions.c.id)
        if kind is not None:
            query = query.where(decisions.c.kind == kind)
        with reading(self.engine) as connection:
            rows = connection.execute(query.limit(limit)).mappings().all()
        return [Decision(**{**row, "reasons": tuple(row["reasons"])}) for row in rows]


_COLUMNS = tuple(decisions.c.keys())
