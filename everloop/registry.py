"""Model versions in BentoML's model store, under the home folder.

BentoML binds its public functions to one home per process, so the store of the given home is handed
to them; a test or a tool may then hold several homes at once.
"""

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from everloop.errors import ArtifactError, NotFoundError
from everloop.manifest import Manifest, read_manifest, verify
from everloop.settings import Home

if TYPE_CHECKING:
    from bentoml import Model

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A model version as it lies in the store."""

    tag: str
    path: Path
    manifest: Manifest


class Registry:
    """The model store of one home folder. A version is never changed after it is saved."""

    def __init__(self, home: Home) -> None:
        # Set before the import: BentoML reads both when it is imported.
        os.environ["BENTOML_DO_NOT_TRACK"] = "True"
        os.environ.setdefault("BENTOML_HOME", str(home.bentoml.resolve()))
        self._folder = home.bentoml / "models"
        self._folder.mkdir(parents=True, exist_ok=True)
        from bentoml._internal.models import ModelStore

        self._store = ModelStore(self._folder)
        self._warned: set[str] = set()

    def save(self, folder: Path) -> ModelVersion:
        """Copy a finished model version folder into the store, after its hashes were checked.

        Raises:
            ArtifactError: the folder is no model version, is damaged, or its tag is taken.
        """
        import bentoml

        manifest = verify(folder)
        self._mend_latest(manifest.name)
        try:
            with bentoml.models.create(
                manifest.tag,
                labels={"family": manifest.family, "precision": manifest.weight_precision},
                metadata={
                    "parent": manifest.lineage.parent or "",
                    "val_bpb": manifest.export.val_bpb,
                },
                _model_store=self._store,
            ) as model:
                shutil.copytree(folder, model.path, dirs_exist_ok=True)
        except bentoml.exceptions.BentoMLException as error:
            raise ArtifactError(f"model version {manifest.tag} cannot be saved: {error}") from error
        return self.get(manifest.tag)

    def get(self, tag: str) -> ModelVersion:
        """Find a version by `name:version`, or the newest of a name by `name:latest` or `name`.

        Raises:
            NotFoundError: there is no such version.
            ArtifactError: it is damaged.
        """
        name, _, number = tag.partition(":")
        if number in ("", "latest"):
            known = [version for version in self.list() if version.manifest.name == name]
            if known:
                return known[-1]
            raise self._not_found(tag)
        return self._read(tag)

    def list(self) -> "list[ModelVersion]":
        """All versions that can be read, oldest first; a damaged one costs a warning, once."""
        found = []
        for folder in sorted(self._folder.glob("*/*/")):
            tag = f"{folder.parent.name}:{folder.name}"
            try:
                found.append((self._model(tag).info.creation_time, self._read(tag)))
            except (ArtifactError, NotFoundError) as error:
                if tag not in self._warned:
                    self._warned.add(tag)
                    logger.warning("model version %s is left out: %s", tag, error)
        return [version for _, version in sorted(found, key=lambda pair: pair[0])]

    def delete(self, tag: str) -> None:
        """Remove a version from the store, whatever state it is in.

        Raises:
            NotFoundError: there is no such version.
        """
        name, _, number = tag.partition(":")
        folders = {folder.name: folder for folder in self._folder.glob("*/*/")}
        folder = folders.get(number)
        if folder is None or folder.parent.name != name:
            raise self._not_found(tag)
        shutil.rmtree(folder)
        self._mend_latest(name)

    def _read(self, tag: str) -> ModelVersion:
        model = self._model(tag)
        folder = Path(model.path)
        manifest = read_manifest(folder)
        if manifest.tag != str(model.tag):
            raise ArtifactError(
                f"{folder} holds {manifest.tag} under the tag {model.tag}. Delete it and export "
                "again."
            )
        return ModelVersion(manifest.tag, folder, manifest)

    def _model(self, tag: str) -> "Model":
        import bentoml

        try:
            return bentoml.models.get(tag, _model_store=self._store)
        except bentoml.exceptions.NotFound as error:
            raise self._not_found(tag) from error
        except Exception as error:
            # A damaged model.yaml raises whatever the YAML reader or BentoML's converters do.
            raise ArtifactError(
                f"model version {tag}: BentoML cannot read its model.yaml ({error}). Delete the "
                "version and export it again."
            ) from error

    def _not_found(self, tag: str) -> NotFoundError:
        known = ", ".join(version.tag for version in self.list()) or "none yet"
        return NotFoundError(f"no model version {tag}; known: {known}.")

    def _mend_latest(self, name: str) -> None:
        """Point BentoML's file `latest` to the newest version that can be read.

        BentoML reads that version to save another; damaged, it would stop all later ones.
        """
        latest = self._folder / name / "latest"
        readable = [version for version in self.list() if version.manifest.name == name]
        if readable:
            latest.write_text(readable[-1].manifest.version, encoding="utf-8")
        else:
            latest.unlink(missing_ok=True)
