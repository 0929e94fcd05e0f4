"""Model versions in BentoML's model store, under the home folder.

BentoML binds its public functions to one home per process, so the store of the given home is handed
to them; a test or a tool may then hold several homes at once.
"""

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
        models = home.bentoml / "models"
        models.mkdir(parents=True, exist_ok=True)
        from bentoml._internal.models import ModelStore

        self._store = ModelStore(models)

    def save(self, folder: Path) -> ModelVersion:
        """Copy a finished model version folder into the store, after its hashes were checked.

        Raises:
            ArtifactError: the folder is no model version, is damaged, or its tag is taken.
        """
        import bentoml

        manifest = verify(folder)
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
        """
        import bentoml

        try:
            return _version(bentoml.models.get(tag, _model_store=self._store))
        except bentoml.exceptions.BentoMLException as error:
            known = ", ".join(version.tag for version in self.list()) or "none yet"
            raise NotFoundError(f"no model version {tag}; known: {known}.") from error

    def list(self) -> list[ModelVersion]:
        """All versions, oldest first."""
        import bentoml

        models = bentoml.models.list(_model_store=self._store)
        return [
            _version(model) for model in sorted(models, key=lambda model: model.info.creation_time)
        ]

    def delete(self, tag: str) -> None:
        """Remove a version from the store.

        Raises:
            NotFoundError: there is no such version.
        """
        import bentoml

        bentoml.models.delete(self.get(tag).tag, _model_store=self._store)


def _version(model: "Model") -> ModelVersion:
    folder = Path(model.path)
    manifest = read_manifest(folder)
    if manifest.tag != str(model.tag):
        raise ArtifactError(
            f"{folder} holds {manifest.tag} under the tag {model.tag}. Delete it and export again."
        )
    return ModelVersion(manifest.tag, folder, manifest)
