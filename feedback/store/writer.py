"""Write interactions and feedback without ever letting a request wait for the database's lock.

One thread takes records from a bounded queue and commits them in batches; whoever handed a record
in awaits the commit. What was acknowledged survives the death of the process.
"""

import asyncio
import logging
import math
import threading
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import Field
from sqlalchemy import ColumnElement, Connection, Engine, select

from everloop.errors import DataError, EverloopError, NotFoundError, StoreError
from everloop.records import Feedback, Interaction
from everloop.settings import Config
from feedback.store.database import insert_new, reading, writing
from feedback.store.interactions import IDS_PER_QUERY, InteractionQueries, to_row
from feedback.store.tables import feedback as feedback_table
from feedback.store.tables import interactions as interactions_table
from feedback.store.text_policy import TextPolicy, keep_feedback, keep_interaction

logger = logging.getLogger(__name__)


class StoreConfig(Config):
    """Table [store]."""

    text: TextPolicy = Field("masked", description="which text of requests and answers is kept")
    max_queue: int = Field(4096, ge=1, description="records that may wait to be written")
    max_batch: int = Field(256, ge=1, le=10_000, description="records in one transaction, at most")
    max_attempts: int = Field(4, ge=1, description="tries of a commit before it has failed")
    backoff_seconds: float = Field(0.1, gt=0, description="wait before the second try; it doubles")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A record on its way, and whom to tell. Made in the event loop that awaits it."""

    record: Interaction | Feedback
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    done: "asyncio.Future[None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


@dataclass(frozen=True, slots=True)
class _Outcome:
    entry: _Entry
    error: EverloopError | None = None


class StoreWriter:
    """Writes what the server learns; implements the API's Recorder. Safe from several event loops.

    Attributes:
        dropped_interactions: how many were refused because the queue was full.
    """

    def __init__(self, engine: Engine, config: StoreConfig) -> None:
        self.dropped_interactions = 0
        self._engine = engine
        self._config = config
        self._waiting: deque[_Entry] = deque()
        self._changed = threading.Condition()  # guards _waiting and _is_open
        self._is_open = True
        self._give_up = threading.Event()
        self._lost = 0
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    async def record(self, interaction: Interaction) -> None:
        """Keep an interaction; returns once it is durable.

        Raises:
            StoreError: the queue is full, the writer is closed, or the commit failed.
        """
        try:
            done = self._put(_Entry(interaction))
        except StoreError:
            self.dropped_interactions += 1
            raise
        await done

    async def add_feedback(self, feedback: Feedback) -> None:
        """Keep feedback; returns once it is durable.

        Raises:
            DataError: it says not what it is about, or its number is not finite.
            NotFoundError: there is no such inference or episode.
            StoreError: it cannot be taken now; the client should send it again.
        """
        _check(feedback)
        await self._put(_Entry(feedback))

    async def check_feedback(self, feedback: Feedback) -> None:
        """Raise what `add_feedback` would, and keep nothing.

        Raises:
            DataError: it says not what it is about, or its number is not finite.
            NotFoundError: there is no such inference or episode.
            StoreError: the database cannot be read.
        """
        _check(feedback)
        refused = await asyncio.to_thread(self._refusal, feedback)
        if refused is not None:
            raise refused

    async def list_feedback(self, inference_id: str | None, limit: int) -> list[Feedback]:
        """Read feedback, newest first.

        Raises:
            StoreError: the database cannot be read.
        """
        queries = InteractionQueries(self._engine)
        return await asyncio.to_thread(
            queries.feedback, inference_id=inference_id, limit=limit, newest_first=True
        )

    def close(self, timeout: float) -> None:
        """Write what is queued and stop; closing again does nothing.

        Args:
            timeout: seconds after which no commit is tried again; one that is under way ends.

        Raises:
            StoreError: some records could not be written; whoever awaits them is told too.
        """
        with self._changed:
            self._is_open = False
            self._changed.notify()
        self._thread.join(timeout)
        self._give_up.set()
        self._thread.join()
        if self._lost:
            raise StoreError(f"{self._lost} records could not be written before the store closed.")

    def _refusal(self, feedback: Feedback) -> NotFoundError | None:
        with reading(self._engine) as connection:
            return _unknown_targets(connection, [feedback]).get(feedback.id)

    def _put(self, entry: _Entry) -> "asyncio.Future[None]":
        with self._changed:
            if not self._is_open:
                raise StoreError("the store's writer is closed: the server is stopping.")
            if len(self._waiting) >= self._config.max_queue:
                raise StoreError(
                    f"the store cannot keep up: {self._config.max_queue} records wait "
                    "(store.max_queue). Send it again later."
                )
            self._waiting.append(entry)
            self._changed.notify()
        return entry.done

    def _run(self) -> None:
        while batch := self._take():
            _tell(self._write(batch))

    def _take(self) -> list[_Entry]:
        """Wait for records; an empty list says that the writer was closed and all is written."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._is_open)
            count = min(len(self._waiting), self._config.max_batch)
            return [self._waiting.popleft() for _ in range(count)]

    def _write(self, batch: Sequence[_Entry]) -> list[_Outcome]:
        failure = "the store was closed before this record was written."
        for attempt in range(self._config.max_attempts):
            if self._give_up.is_set():
                break
            try:
                return self._commit(batch)
            except StoreError as error:
                failure = str(error)
                logger.warning("commit failed attempt=%d records=%d", attempt + 1, len(batch))
                self._give_up.wait(self._config.backoff_seconds * 2**attempt)
            except Exception as error:
                # One record that the database refuses must neither take its batch with it nor end
                # the thread.
                if len(batch) > 1:
                    return [outcome for entry in batch for outcome in self._write([entry])]
                logger.exception("record refused id=%s", batch[0].record.id)
                failure = f"{batch[0].record.id} cannot be stored: {type(error).__name__}."
                break
        self._lost += len(batch) if self._give_up.is_set() else 0
        return [_Outcome(entry, StoreError(failure)) for entry in batch]

    def _commit(self, batch: Sequence[_Entry]) -> list[_Outcome]:
        policy = self._config.text
        interactions: list[Interaction] = []
        feedback: list[tuple[_Entry, Feedback]] = []
        for entry in batch:
            if isinstance(entry.record, Interaction):
                interactions.append(keep_interaction(entry.record, policy))
            else:
                feedback.append((entry, keep_feedback(entry.record, policy)))
        with writing(self._engine) as connection:
            # Interactions first: feedback about one of the same batch finds it.
            insert_new(connection, interactions_table, [to_row(record) for record in interactions])
            refused = _unknown_targets(connection, [record for _, record in feedback])
            accepted = [to_row(record) for _, record in feedback if record.id not in refused]
            insert_new(connection, feedback_table, accepted)
        return [_Outcome(entry, refused.get(entry.record.id)) for entry in batch]


def _check(feedback: Feedback) -> None:
    if feedback.inference_id is None and feedback.episode_id is None:
        raise DataError("feedback needs an inference_id (a completion's id) or an episode_id.")
    if isinstance(feedback.value, float) and not math.isfinite(feedback.value):
        raise DataError(f"feedback value must be a finite number, got {feedback.value}.")


def _unknown_targets(
    connection: Connection, feedback: Sequence[Feedback]
) -> dict[str, NotFoundError]:
    columns = interactions_table.c
    inferences = _known(connection, columns.id, [row.inference_id for row in feedback])
    episodes = _known(connection, columns.conversation_id, [row.episode_id for row in feedback])
    refused: dict[str, NotFoundError] = {}
    for row in feedback:
        if row.inference_id not in inferences:
            refused[row.id] = NotFoundError(
                f"no inference {row.inference_id}: feedback needs the id of a completion that this "
                "server answered, after its last byte."
            )
        elif row.episode_id not in episodes:
            refused[row.id] = NotFoundError(
                f"no episode {row.episode_id}: an episode is the conversation_id that requests "
                "carried in their metadata."
            )
    return refused


def _known(
    connection: Connection, column: ColumnElement[str | None], wanted: Sequence[str | None]
) -> set[str | None]:
    """Those of the wanted values that the column holds; None, which wants nothing, is known."""
    known: set[str | None] = {None}
    ids = sorted({value for value in wanted if value is not None})
    for start in range(0, len(ids), IDS_PER_QUERY):
        chunk = ids[start : start + IDS_PER_QUERY]
        known.update(connection.scalars(select(column).where(column.in_(chunk)).distinct()))
    return known


def _tell(outcomes: Sequence[_Outcome]) -> None:
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[_Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_loop[outcome.entry.loop].append(outcome)
    for loop, group in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, group)
        except RuntimeError:  # the loop was closed: nobody waits any more
            logger.debug("outcomes unheard records=%d", len(group))


def _resolve(outcomes: Sequence[_Outcome]) -> None:
    for outcome in outcomes:
        done = outcome.entry.done
        if done.done():  # whoever waited was cancelled; the record is kept all the same
            continue
        if outcome.error is None:
            done.set_result(None)
        else:
            done.set_exception(outcome.error)
