"""The store: what the server logged, what people said, what was learnt, decided and deployed."""

from feedback.store.datasets import DatasetVersion
from feedback.store.decisions import Decision
from feedback.store.deployments import Deployment
from feedback.store.interactions import FeedbackCounts
from feedback.store.store import Store, open_store
from feedback.store.trace import DatasetTrace, RowTrace, SourceTrace, Trace
from feedback.store.writer import StoreConfig, StoreWriter

__all__ = [
    "DatasetTrace",
    "DatasetVersion",
    "Decision",
    "Deployment",
    "FeedbackCounts",
    "RowTrace",
    "SourceTrace",
    "Store",
    "StoreConfig",
    "StoreWriter",
    "Trace",
    "open_store",
]
