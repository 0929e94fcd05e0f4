"""The tables of the store, in one relational schema for the life of a model.

Only declarations: `migrations/` builds them (a test holds the two equal), the topic modules query
them. Times are Unix seconds. Types are those that SQLite and PostgreSQL both know.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
)

# Named constraints, so that a later migration can change them on SQLite too.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
    }
)

_json = JSON(none_as_null=True)

interactions = Table(
    "interactions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("created_at", Double, nullable=False, index=True),
    Column("route", Text, nullable=False),
    Column("conversation_id", Text, index=True),
    Column("model_version", Text, nullable=False, index=True),
    Column("messages", _json, nullable=False),
    Column("answer", Text),
    Column("finish_reason", Text, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("temperature", Double, nullable=False),
    Column("top_p", Double, nullable=False),
    Column("max_tokens", Integer, nullable=False),
    Column("seed", BigInteger),
    Column("queue_seconds", Double, nullable=False),
    Column("ttft_seconds", Double),
    Column("e2e_seconds", Double, nullable=False),
    Column("metadata", _json, nullable=False),
    Column("tools", _json),
)

feedback = Table(
    "feedback",
    metadata,
    Column("id", Text, primary_key=True),
    Column("created_at", Double, nullable=False, index=True),
    Column("inference_id", Text, ForeignKey("interactions.id"), index=True),
    Column("episode_id", Text, index=True),
    Column("metric_name", Text, nullable=False),
    Column("value", _json, nullable=False),
    Column("tags", _json, nullable=False),
    Column("source", Text, nullable=False),
    CheckConstraint("inference_id IS NOT NULL OR episode_id IS NOT NULL", name="target"),
)

files = Table(
    "files",
    metadata,
    Column("id", Text, primary_key=True),
    Column("created_at", Double, nullable=False, index=True),
    Column("filename", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("path", Text, nullable=False),
)

datasets = Table(
    "datasets",
    metadata,
    Column("id", Text, primary_key=True),
    Column("created_at", Double, nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("merkle_root", Text, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("parent", Text),
    Column("dropped", _json, nullable=False),
    Column("documents", _json, nullable=False),
)

dataset_rows = Table(
    "dataset_rows",
    metadata,
    Column("dataset_id", Text, ForeignKey("datasets.id"), primary_key=True),
    Column("id", Text, primary_key=True),
    Column("split", Text, nullable=False),
    Column("topic", Text),
    Column("text", Text),
    Column("messages", _json),
    Column("sources", _json, nullable=False),
    Column("chosen", _json),
    Column("rejected", _json),
    Column("label", Boolean),
    Column("tools", _json),
    Index(None, "dataset_id", "split"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("created_at", Double, nullable=False, index=True),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False, index=True),
    Column("parameters", _json, nullable=False),
    Column("result", _json),
    Column("error", Text),
)

job_events = Table(
    "job_events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", Text, ForeignKey("jobs.id"), nullable=False, index=True),
    Column("created_at", Double, nullable=False),
    Column("level", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("data", _json),
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("tag", Text, primary_key=True),
    Column("created_at", Double, nullable=False, index=True),
    Column("parent", Text, index=True),
    Column("path", Text, nullable=False),
    Column("manifest", _json, nullable=False),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("created_at", Double, nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("reasons", _json, nullable=False),
    Column("numbers", _json, nullable=False),
    Column("champion", Text),
    Column("candidate", Text),
    Column("dataset_id", Text),
)

# The id orders the history: a clock may step back, a counter does not.
deployments = Table(
    "deployments",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("created_at", Double, nullable=False),
    Column("model_version", Text, ForeignKey("model_versions.tag"), nullable=False),
    Column("previous", Text),
    Column("action", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("decision_id", Text, ForeignKey("decisions.id")),
    Column("status", Text, nullable=False),
    Column("detail", Text),
    sqlite_autoincrement=True,
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("created_at", Double, nullable=False),
    Column("name", Text, nullable=False),
    Column("key_sha256", Text, nullable=False, unique=True),
    Column("scopes", _json, nullable=False),
    Column("revoked_at", Double),
)
