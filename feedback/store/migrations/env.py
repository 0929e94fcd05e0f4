"""Alembic's entry: run the migrations inside the transaction that the caller has opened.

Alembic executes this file; it is not imported. There is no alembic.ini and no offline mode.
"""

from alembic import context

from feedback.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a constraint only by rebuilding the table
    transactional_ddl=True,  # the caller's BEGIN covers DDL on SQLite too
)
with context.begin_transaction():
    context.run_migrations()
