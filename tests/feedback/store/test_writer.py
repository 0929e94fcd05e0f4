import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import event, text

from everloop.errors import DataError, NotFoundError, StoreError
from everloop.records import Feedback, Interaction, Message
from feedback.store import Store, StoreConfig, StoreWriter, open_store
from feedback.store.database import writing

Ask = Callable[..., Interaction]
Say = Callable[..., Feedback]

ROOT = Path(__file__).parents[3]


@pytest.fixture
def writer(store: Store) -> Iterator[StoreWriter]:
    writer = StoreWriter(store.engine, StoreConfig())
    yield writer
    writer.close(60)


class Blocked:
    """Holds the database's write lock, as another process would, until it is released."""

    def __init__(self, store: Store) -> None:
        self._held, self._release = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, args=(store,))

    def _hold(self, store: Store) -> None:
        with writing(store.engine):
            self._held.set()
            self._release.wait(120)

    def __enter__(self) -> "Blocked":
        self._thread.start()
        assert self._held.wait(60)
        return self

    def release(self) -> None:
        self._release.set()
        self._thread.join()

    def __exit__(self, *_: object) -> None:
        self.release()


def impatient(store: Store) -> None:
    """Let a lock be noticed at once instead of after the usual seconds."""
    store.close()
    event.listen(
        store.engine, "connect", lambda raw, _: raw.execute("PRAGMA busy_timeout=10").close()
    )


def test_record_returns_when_the_interaction_can_be_read(
    store: Store, writer: StoreWriter, asked: Ask
) -> None:
    asyncio.run(writer.record(asked(1)))
    assert store.interaction("chatcmpl-1") == asked(1)


def test_record_twice_keeps_the_first(store: Store, writer: StoreWriter, asked: Ask) -> None:
    asyncio.run(writer.record(asked(1)))
    asyncio.run(writer.record(asked(1, answer="Another.")))
    assert [row.answer for row in store.interactions()] == ["Number 1 is a number."]


def test_many_records_are_committed_in_batches(store: Store, asked: Ask) -> None:
    writer = StoreWriter(store.engine, StoreConfig(max_batch=16))
    commits = []
    event.listen(store.engine, "commit", lambda _: commits.append(1))

    async def main() -> None:
        await asyncio.gather(*(writer.record(asked(number)) for number in range(160)))

    asyncio.run(main())
    writer.close(60)
    assert len(store.interactions()) == 160
    assert 10 <= len(commits) <= 20


def test_feedback_about_an_interaction_of_the_same_batch_is_taken(
    store: Store, writer: StoreWriter, asked: Ask, said: Say
) -> None:
    began = threading.Event()

    async def main() -> None:
        with Blocked(store) as blocked:
            event.listen(store.engine, "before_cursor_execute", lambda *_: began.set())
            first = asyncio.ensure_future(writer.record(asked(0)))
            await asyncio.to_thread(began.wait, 60)  # the thread is at the lock with the first
            later = [
                asyncio.ensure_future(writer.add_feedback(said(1))),
                asyncio.ensure_future(writer.record(asked(1))),
            ]
            await asyncio.sleep(0)
            await asyncio.to_thread(blocked.release)
        await asyncio.gather(first, *later)

    asyncio.run(main())
    assert store.feedback() == [said(1)]


def test_feedback_about_an_unknown_inference_is_refused(
    store: Store, writer: StoreWriter, said: Say
) -> None:
    with pytest.raises(NotFoundError, match="no inference chatcmpl-9"):
        asyncio.run(writer.add_feedback(said(9)))
    assert store.feedback() == []


def test_feedback_about_a_conversation_is_taken(
    store: Store, writer: StoreWriter, asked: Ask, said: Say
) -> None:
    about = said(1, inference_id=None, episode_id="talk-1")

    async def main() -> None:
        await writer.record(asked(1))
        await writer.add_feedback(about)

    asyncio.run(main())
    assert store.feedback() == [about]


def test_feedback_about_an_unknown_conversation_is_refused(writer: StoreWriter, said: Say) -> None:
    with pytest.raises(NotFoundError, match="no episode nowhere"):
        asyncio.run(writer.add_feedback(said(1, inference_id=None, episode_id="nowhere")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inference_id": None}, "needs an inference_id"),
        ({"value": float("nan")}, "must be a finite number, got nan"),
    ],
)
def test_feedback_that_says_nothing_is_refused(
    writer: StoreWriter, said: Say, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        asyncio.run(writer.add_feedback(said(1, **changes)))


@pytest.mark.parametrize("value", [True, False, 0.5, 1.0, "a better answer"])
def test_feedback_value_keeps_its_type(
    store: Store, writer: StoreWriter, asked: Ask, said: Say, value: bool | float | str
) -> None:
    async def main() -> None:
        await writer.record(asked(1))
        await writer.add_feedback(said(1, value=value))

    asyncio.run(main())
    found = store.feedback()[0].value
    assert (type(found), found) == (type(value), value)


def test_list_feedback_is_newest_first(writer: StoreWriter, asked: Ask, said: Say) -> None:
    async def main() -> list[Feedback]:
        for number in (1, 2, 3):
            await writer.record(asked(number))
            await writer.add_feedback(said(number))
        return await writer.list_feedback(None, 2)

    assert [row.inference_id for row in asyncio.run(main())] == ["chatcmpl-3", "chatcmpl-2"]


def test_writer_serves_several_event_loops(store: Store, writer: StoreWriter, asked: Ask) -> None:
    async def main(start: int) -> None:
        await asyncio.gather(*(writer.record(asked(start + n)) for n in range(25)))

    threads = [threading.Thread(target=asyncio.run, args=(main(s),)) for s in (0, 100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(store.interactions()) == 100


def test_full_queue_refuses_and_counts(store: Store, asked: Ask, said: Say) -> None:
    writer = StoreWriter(store.engine, StoreConfig(max_queue=3, max_batch=1))

    async def main() -> list[BaseException | None]:
        with Blocked(store) as blocked:
            waiting = [asyncio.ensure_future(writer.record(asked(n))) for n in range(8)]
            await asyncio.sleep(0)
            with pytest.raises(StoreError, match=r"3 records wait \(store.max_queue\)"):
                await writer.add_feedback(said(1))
            await asyncio.to_thread(blocked.release)
        return await asyncio.gather(*waiting, return_exceptions=True)

    results = asyncio.run(main())
    writer.close(60)
    refused = [result for result in results if isinstance(result, StoreError)]
    assert writer.dropped_interactions == len(refused)
    assert len(refused) in (4, 5)  # the thread may have taken one out of the queue already
    assert len(store.interactions()) == 8 - len(refused)


def test_locked_database_is_tried_again(store: Store, asked: Ask) -> None:
    impatient(store)
    writer = StoreWriter(store.engine, StoreConfig(max_attempts=12, backoff_seconds=0.02))

    async def main() -> None:
        with Blocked(store) as blocked:
            waiting = asyncio.ensure_future(writer.record(asked(1)))
            done, _ = await asyncio.wait([waiting], timeout=0.2)
            assert not done
            await asyncio.to_thread(blocked.release)
            await waiting

    asyncio.run(main())
    writer.close(60)
    assert len(store.interactions()) == 1


def test_database_that_stays_locked_fails_whoever_waits(store: Store, asked: Ask) -> None:
    impatient(store)
    writer = StoreWriter(store.engine, StoreConfig(max_attempts=2, backoff_seconds=0.01))
    with Blocked(store), pytest.raises(StoreError, match="database is locked"):
        asyncio.run(writer.record(asked(1)))
    asyncio.run(writer.record(asked(2)))  # the thread lives on
    writer.close(60)
    assert [row.id for row in store.interactions()] == ["chatcmpl-2"]


def test_record_that_the_database_refuses_fails_alone(
    store: Store, writer: StoreWriter, asked: Ask
) -> None:
    async def main() -> list[BaseException | None]:
        records = [asked(1), asked(2, seed=2**80), asked(3)]
        return await asyncio.gather(*map(writer.record, records), return_exceptions=True)

    results = asyncio.run(main())
    assert [type(result) for result in results] == [type(None), StoreError, type(None)]
    assert [row.id for row in store.interactions()] == ["chatcmpl-1", "chatcmpl-3"]


def test_close_writes_what_is_queued(store: Store, asked: Ask) -> None:
    writer = StoreWriter(store.engine, StoreConfig(max_batch=2))

    async def main() -> None:
        waiting = [asyncio.ensure_future(writer.record(asked(n))) for n in range(40)]
        await asyncio.sleep(0)
        await asyncio.to_thread(writer.close, 60)
        await asyncio.gather(*waiting)

    asyncio.run(main())
    assert len(store.interactions()) == 40


def test_close_in_time_tells_those_whose_records_are_lost(store: Store, asked: Ask) -> None:
    impatient(store)
    writer = StoreWriter(store.engine, StoreConfig(max_attempts=100, max_batch=1))

    async def main() -> list[BaseException | None]:
        with Blocked(store):
            waiting = [asyncio.ensure_future(writer.record(asked(n))) for n in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(StoreError, match="3 records could not be written"):
                await asyncio.to_thread(writer.close, 0.1)
        return await asyncio.gather(*waiting, return_exceptions=True)

    assert [type(result) for result in asyncio.run(main())] == [StoreError] * 3
    assert store.interactions() == []


def test_closed_writer_takes_nothing(store: Store, asked: Ask) -> None:
    writer = StoreWriter(store.engine, StoreConfig())
    writer.close(60)
    writer.close(60)
    with pytest.raises(StoreError, match="closed"):
        asyncio.run(writer.record(asked(1)))


def test_record_of_a_client_that_left_is_kept(
    store: Store, writer: StoreWriter, asked: Ask
) -> None:
    async def main() -> None:
        with Blocked(store) as blocked:
            waiting = asyncio.ensure_future(writer.record(asked(1)))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.to_thread(blocked.release)
        await writer.record(asked(2))

    asyncio.run(main())
    assert len(store.interactions()) == 2


def test_text_is_masked_before_it_is_stored(url: str, store: Store, asked: Ask) -> None:
    writer = StoreWriter(store.engine, StoreConfig())
    question = Message(role="user", content="I am ada@example.org")
    asyncio.run(writer.record(asked(1, messages=(question,))))
    writer.close(60)
    with store.engine.connect() as connection:
        raw = connection.execute(text("SELECT messages FROM interactions")).scalar_one()
    assert "I am <EMAIL>" in raw
    assert "ada@" not in raw


_KILLED_AFTER_ACK = """
import asyncio, os, signal, sys
from everloop.records import Feedback, Interaction
from feedback.store import StoreConfig, StoreWriter, open_store

async def main():
    writer = StoreWriter(open_store(sys.argv[1]).engine, StoreConfig())
    records = [Interaction.model_validate_json(line) for line in sys.stdin]
    await asyncio.gather(*map(writer.record, records))
    await writer.add_feedback(Feedback(
        id="fb", created_at=1.0, inference_id=records[0].id, episode_id=None,
        metric_name="thumbs", value=True))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_what_was_acknowledged_survives_kill(url: str, asked: Ask) -> None:
    lines = "\n".join(asked(number).model_dump_json() for number in range(50))
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED_AFTER_ACK, url],
        input=lines,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    store = open_store(url)
    assert (len(store.interactions()), len(store.feedback())) == (50, 1)
    store.close()


def test_checked_feedback_is_refused_as_it_would_be_and_never_kept(
    store: Store, writer: StoreWriter, asked: Ask, said: Say
) -> None:
    async def main() -> None:
        await writer.record(asked(1))
        await writer.check_feedback(said(1))
        with pytest.raises(NotFoundError, match="no inference chatcmpl-9"):
            await writer.check_feedback(said(9))
        with pytest.raises(DataError, match="finite"):
            await writer.check_feedback(said(1, "accuracy", float("nan")))

    asyncio.run(main())
    assert store.feedback() == []
