"""Queries over logged interactions and what was said about them.

Writing them is the work of `writer.py`; these are the readers: the loop, drift, the command line.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, Table, select

from everloop.errors import NotFoundError
from everloop.records import Feedback, Interaction, Record
from feedback.store.database import Queries, reading
from feedback.store.tables import feedback as feedback_table
from feedback.store.tables import interactions as interactions_table

IDS_PER_QUERY = 500  # databases limit the parameters of one statement

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackCounts:
    """How much was said in a span of time, by the rating of the feedback."""

    positive: int = 0
    negative: int = 0
    demonstration: int = 0
    comment: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        """Everything that was said."""
        return self.positive + self.negative + self.demonstration + self.comment + self.other


class InteractionQueries(Queries):
    """Reads interactions and feedback."""

    def interactions(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        model_version: str | None = None,
        conversation_id: str | None = None,
        exclude: Collection[str] = (),
        limit: int | None = None,
        newest_first: bool = False,
    ) -> list[Interaction]:
        """List interactions in the order in which they were created.

        Args:
            since, until: Unix times; `since` is included, `until` is not.
            model_version: only those answered by this tag.
            conversation_id: only those of this conversation.
            exclude: ids to leave out; they do not count towards the limit.
            limit: at most so many.
            newest_first: begin at the end.
        """
        created_at = interactions_table.c.created_at
        query = _between(_select(interactions_table, Interaction), created_at, since, until)
        if model_version is not None:
            query = query.where(interactions_table.c.model_version == model_version)
        if conversation_id is not None:
            query = query.where(interactions_table.c.conversation_id == conversation_id)
        order = (created_at, interactions_table.c.id)
        query = query.order_by(*(column.desc() for column in order) if newest_first else order)
        if limit is not None:
            query = query.limit(limit + len(exclude))
        with reading(self.engine) as connection:
            rows = _records(connection, query, Interaction)
            return list(islice((row for row in rows if row.id not in exclude), limit))

    def interaction(self, completion_id: str) -> Interaction:
        """Find one interaction.

        Raises:
            NotFoundError: the store has none of this id.
        """
        found = self.interactions_by_id([completion_id])
        if not found:
            raise NotFoundError(
                f"no interaction {completion_id} in the store. Expected the id of a completion "
                "that this server answered, such as chatcmpl-…"
            )
        return found[0]

    def interactions_by_id(self, ids: Sequence[str]) -> list[Interaction]:
        """Find interactions by id, in the order of creation; unknown ids are left out."""
        query = _select(interactions_table, Interaction)
        with reading(self.engine) as connection:
            found = _by_ids(connection, query, interactions_table.c.id, ids, Interaction)
        return sorted(found, key=lambda row: (row.created_at, row.id))

    def feedback(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        inference_id: str | None = None,
        metric_name: str | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> list[Feedback]:
        """List feedback in the order in which it was given.

        Args:
            since, until: Unix times; `since` is included, `until` is not.
            inference_id: only what was said about this interaction.
            metric_name: only this metric.
            limit: at most so many.
            newest_first: begin at the end.
        """
        created_at = feedback_table.c.created_at
        query = _between(_select(feedback_table, Feedback), created_at, since, until)
        if inference_id is not None:
            query = query.where(feedback_table.c.inference_id == inference_id)
        if metric_name is not None:
            query = query.where(feedback_table.c.metric_name == metric_name)
        order = (created_at, feedback_table.c.id)
        query = query.order_by(*(column.desc() for column in order) if newest_first else order)
        with reading(self.engine) as connection:
            return list(_records(connection, query.limit(limit), Feedback))

    def feedback_by_id(self, ids: Sequence[str]) -> list[Feedback]:
        """Find feedback by its own id; unknown ids are left out."""
        query = _select(feedback_table, Feedback)
        with reading(self.engine) as connection:
            return _by_ids(connection, query, feedback_table.c.id, ids, Feedback)

    def feedback_for(self, inference_ids: Sequence[str]) -> list[Feedback]:
        """All that was said about these interactions, in the order in which it was given."""
        query = _select(feedback_table, Feedback)
        column = feedback_table.c.inference_id
        with reading(self.engine) as connection:
            found = _by_ids(connection, query, column, inference_ids, Feedback)
        return sorted(found, key=lambda row: (row.created_at, row.id))

    def rated(
        self, *, since: float | None = None, until: float | None = None
    ) -> tuple[list[Interaction], list[Feedback]]:
        """Interactions about which something was said in this span, and all that was ever said.

        Returns:
            The interactions and their feedback, both in the order of creation.
        """
        span = self.feedback(since=since, until=until)
        ids = list(dict.fromkeys(row.inference_id for row in span if row.inference_id is not None))
        return self.interactions_by_id(ids), self.feedback_for(ids)

    def feedback_counts(
        self, *, since: float | None = None, until: float | None = None
    ) -> FeedbackCounts:
        """Count what was said in a span of time, such as since the last round of the loop."""
        counts: dict[str, int] = {}
        for row in self.feedback(since=since, until=until):
            counts[row.rating] = counts.get(row.rating, 0) + 1
        return FeedbackCounts(**counts)


def to_row(record: Interaction | Feedback) -> dict[str, Any]:
    """The record as a row of its table."""
    return record.model_dump(mode="json")


def _select(table: Table, record: type[Record]) -> Select[Any]:
    return select(*(table.c[name] for name in record.model_fields))


def _between(
    query: Select[Any], column: Any, since: float | None, until: float | None
) -> Select[Any]:
    if since is not None:
        query = query.where(column >= since)
    return query if until is None else query.where(column < until)


def _records(connection: Connection, query: Select[Any], record: type[R]) -> Iterator[R]:
    rows = connection.execute(query).mappings()
    return (record.model_validate(dict(row)) for row in rows)


def _by_ids(
    connection: Connection, query: Select[Any], column: Any, ids: Sequence[str], record: type[R]
) -> list[R]:
    found: list[R] = []
    for start in range(0, len(ids), IDS_PER_QUERY):
        chunk = ids[start : start + IDS_PER_QUERY]
        found += _records(connection, query.where(column.in_(chunk)), record)
    return found
