"""Model versions as the store knows them: the manifest, and where the folder lies."""

import time
from pathlib import Path

from sqlalchemy import select

from everloop.errors import NotFoundError
from everloop.manifest import Manifest
from everloop.registry import ModelVersion
from feedback.store.database import Queries, insert_new, reading, writing
from feedback.store.tables import model_versions


class ModelQueries(Queries):
    """Records and reads model versions."""

    def record_model_version(self, version: ModelVersion) -> None:
        """Remember a version; it never changes, so recording it again does nothing."""
        row = {
            "tag": version.tag,
            "created_at": time.time(),
            "parent": version.manifest.lineage.parent,
            "path": str(version.path),
            "manifest": version.manifest.model_dump(mode="json"),
        }
        with writing(self.engine) as connection:
            insert_new(connection, model_versions, [row])

    def model_version(self, tag: str) -> ModelVersion:
        """Find a version by `name:version`.

        Raises:
            NotFoundError: the store has no such version.
        """
        query = select(model_versions).where(model_versions.c.tag == tag)
        with reading(self.engine) as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            known = ", ".join(version.tag for version in self.model_versions()[-3:]) or "none yet"
            raise NotFoundError(f"no model version {tag} in the store; newest known: {known}.")
        return ModelVersion(row.tag, Path(row.path), Manifest.model_validate(row.manifest))

    def model_versions(self) -> list[ModelVersion]:
        """List the versions, oldest first."""
        query = select(model_versions).order_by(model_versions.c.created_at, model_versions.c.tag)
        with reading(self.engine) as connection:
            rows = connection.execute(query).all()
        return [
            ModelVersion(row.tag, Path(row.path), Manifest.model_validate(row.manifest))
            for row in rows
        ]

    def ancestors(self, tag: str) -> tuple[str, ...]:
        """Tags of the parent of a version, its parent, and so on; ends where the store ends."""
        query = select(model_versions.c.tag, model_versions.c.parent)
        with reading(self.engine) as connection:
            parents = {row.tag: row.parent for row in connection.execute(query)}
        line: list[str] = []
        parent = parents.get(tag)
        while parent is not None and parent not in line:
            line.append(parent)
            parent = parents.get(parent)
        return tuple(line)
