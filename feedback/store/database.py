"""Connect to the store's database and bring its tables up to date.

The only place that knows which database it is: everything else speaks SQLAlchemy Core. SQLite takes
one writer at a time, so a writing transaction asks for the lock when it begins (and waits for it)
instead of failing half-way.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError
from sqlalchemy.pool import ConnectionPoolEntry

from everloop.errors import ConfigError, StoreError

BUSY_TIMEOUT_MS = 5_000  # how long one statement waits for another process's lock
_WRITES = "everloop_writes"


def connect(url: str) -> Engine:
    """Make the engine of a store; nothing is opened yet, but a file has its owner's rights only.

    Args:
        url: SQLAlchemy's, such as `sqlite:////path/to/store.sqlite`.

    Raises:
        ConfigError: the URL is malformed, or its driver is not installed.
    """
    try:
        # Parameters hold people's text, and error messages reach the log: they stay apart.
        engine = create_engine(
            url, json_serializer=partial(json.dumps, allow_nan=False), hide_parameters=True
        )
    except (ArgumentError, ImportError) as error:
        raise ConfigError(
            f"database URL {url.split('@')[-1]!r} cannot be used ({error}). Expected SQLAlchemy's "
            "form, such as sqlite:////path/to/store.sqlite."
        ) from error
    if engine.dialect.name == "sqlite":
        _close_to_others(engine.url.database)
        event.listen(engine, "connect", _set_pragmas)
        event.listen(engine, "begin", _begin)
    return engine


class Queries:
    """Base of the store's topics: each adds its queries over the same engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that only reads: one consistent view.

    Raises:
        StoreError: the database is away, locked or damaged.
    """
    with _translated(engine), engine.connect() as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that writes; it is committed when the block ends without an error.

    Raises:
        StoreError: the database is away, locked or damaged; nothing was written.
    """
    with _translated(engine), engine.execution_options(**{_WRITES: True}).begin() as connection:
        yield connection


def insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; one whose primary key is there already is left as it is (delivered once)."""
    if not rows:
        return
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    keys = list(table.primary_key.columns)
    connection.execute(insert(table).on_conflict_do_nothing(index_elements=keys), list(rows))


def upgrade(engine: Engine) -> None:
    """Bring the tables to the newest migration; two processes may do so at the same time.

    Raises:
        StoreError: the database cannot be opened, or a newer release has written it.
    """
    # Alembic takes time to import, and only the opening of a store needs it.
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    folder = Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    head = ScriptDirectory.from_config(config).get_current_head()
    with reading(engine) as connection:
        if MigrationContext.configure(connection).get_current_revision() == head:
            return
    try:
        with writing(engine) as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise StoreError(
            f"store {_name(engine)} was written by a newer release ({error}). Update Everloop, or "
            "use another home folder."
        ) from error


@contextmanager
def _translated(engine: Engine) -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except DatabaseError as error:
        raise StoreError(
            f"store {_name(engine)} cannot be used: {error.orig}. Check that the file or server is "
            "there, writable and not held by another program."
        ) from error


def _name(engine: Engine) -> str:
    return engine.url.database or engine.url.render_as_string(hide_password=True)


def _close_to_others(file: str | None) -> None:
    """Make a database's file for its owner alone; SQLite gives its rights to the files beside it.

    What cannot be made or changed is left to SQLite, whose error says why.
    """
    if not file or file == ":memory:" or file.startswith("file:"):
        return
    with contextlib.suppress(OSError):
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        for path in (file, f"{file}-wal", f"{file}-shm"):
            Path(path).chmod(0o600)


def _set_pragmas(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:  # noqa: ARG001
    # The driver would begin transactions by its own rules; _begin does it by ours.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
