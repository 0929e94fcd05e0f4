import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from everloop.errors import ConfigError, StoreError
from feedback.store import Store, open_store
from feedback.store.database import connect, insert_new, reading, upgrade, writing
from feedback.store.tables import deployments, metadata, model_versions

ROOT = Path(__file__).parents[3]


def test_connection_sets_pragmas(store: Store) -> None:
    names = ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
    with reading(store.engine) as connection:
        values = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]
    assert values == ["wal", 1, 5000, 1]


def test_migrations_build_the_declared_tables(store: Store) -> None:
    with reading(store.engine) as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    assert set(metadata.tables) == {
        "interactions", "feedback", "files", "datasets", "dataset_rows", "jobs", "job_events",
        "model_versions", "deployments", "decisions", "api_keys",
    }  # fmt: skip


def test_migrations_can_be_undone(store: Store) -> None:
    from alembic import command
    from alembic.config import Config

    import feedback.store

    config = Config()
    config.set_main_option("script_location", f"{Path(feedback.store.__file__).parent}/migrations")
    with writing(store.engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    with reading(store.engine) as connection:
        tables = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'"))
        assert {row.name for row in tables} == {"alembic_version", "sqlite_sequence"}


def test_opening_again_changes_nothing(url: str, store: Store) -> None:
    upgrade(store.engine)
    again = open_store(url)
    assert again.interactions() == []
    again.close()


def test_store_opens_from_any_folder(tmp_path: Path) -> None:
    code = "from feedback.store import open_store; print(open_store('sqlite:///s.db').champion())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("None\n", "")


def test_two_processes_open_a_new_store_at_once(url: str) -> None:
    code = "import sys; from feedback.store import open_store; sys.stdin.read(); "
    code += "print(open_store(sys.argv[1]).decisions())"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, url],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    assert [process.communicate(timeout=60)[0] for process in processes] == ["[]\n"] * 2


def test_transaction_that_fails_writes_nothing(store: Store) -> None:
    row = {"tag": "a:1", "created_at": 1.0, "path": "/a", "manifest": {}}
    with pytest.raises(ZeroDivisionError), writing(store.engine) as connection:
        insert_new(connection, model_versions, [row])
        raise ZeroDivisionError
    with reading(store.engine) as connection:
        assert connection.execute(model_versions.select()).all() == []


def test_foreign_keys_hold(store: Store) -> None:
    row = {
        "created_at": 1.0, "model_version": "nobody:1", "action": "promote", "reason": "",
        "status": "pending",
    }  # fmt: skip
    with pytest.raises(IntegrityError), writing(store.engine) as connection:
        connection.execute(deployments.insert().values(row))


def test_reader_sees_one_state_while_another_writes(store: Store) -> None:
    row = {"tag": "a:1", "created_at": 1.0, "path": "/a", "manifest": {}}
    with reading(store.engine) as reader:
        before = reader.execute(model_versions.select()).all()
        with writing(store.engine) as writer:
            insert_new(writer, model_versions, [row])
        after = reader.execute(model_versions.select()).all()
    assert before == after == []


@pytest.mark.parametrize("url", ["store.sqlite", "nosuch://host/db"])
def test_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="Expected SQLAlchemy's form"):
        connect(url)


def test_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"absent/store.sqlite cannot be used: unable to open"):
        open_store(f"sqlite:///{tmp_path}/absent/store.sqlite")


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"this is no database, but long enough to look at" * 40)
    with pytest.raises(StoreError, match="file is not a database"):
        open_store(f"sqlite:///{path}")


def test_store_of_a_newer_release_is_refused(tmp_path: Path, url: str, store: Store) -> None:
    store.close()
    with sqlite3.connect(tmp_path / "store.sqlite") as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.close()
    with pytest.raises(StoreError, match="written by a newer release"):
        open_store(url)


def test_error_messages_hold_no_text_of_people(store: Store) -> None:
    row = {"tag": None, "created_at": 1.0, "path": "ada@example.org", "manifest": {}}
    with pytest.raises(IntegrityError) as caught, writing(store.engine) as connection:
        insert_new(connection, model_versions, [row])
    assert "ada@" not in str(caught.value)
