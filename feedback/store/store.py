"""The store: everything that is remembered about a model's life, behind short synchronous queries.

Interactions and feedback are written by `writer.py`, which never lets a request wait for a lock.
"""

from feedback.store.database import connect, upgrade
from feedback.store.decisions import DecisionQueries
from feedback.store.deployments import DeploymentQueries
from feedback.store.trace import TraceQueries


class Store(TraceQueries, DecisionQueries, DeploymentQueries):
    """All queries over one database; safe to share between threads.

    Topics: interactions and feedback, datasets, model versions, decisions, deployments, trace.
    """

    def close(self) -> None:
        """Close the connections; the store can be used again afterwards."""
        self.engine.dispose()


def open_store(url: str) -> Store:
    """Open a store and bring its tables up to date.

    Args:
        url: SQLAlchemy's; `everloop.settings.Home.database_url` gives the embedded one.

    Raises:
        ConfigError: the URL is malformed, or its driver is not installed.
        StoreError: the database cannot be opened, or a newer release has written it.
    """
    engine = connect(url)
    upgrade(engine)
    return Store(engine)
