"""Alembic migrations of the store; `feedback.store.database.upgrade` runs them."""
