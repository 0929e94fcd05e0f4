"""The sidecar of a checkpoint: hashes of what it holds, and where its weights come from.

A checkpoint is an ordinary Hugging Face folder that any tool can load; `everloop.json` lies beside
the weights. A folder from elsewhere, without the sidecar, is taken as it is.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from everloop.errors import ArtifactError
from everloop.manifest import DatasetRef, Lineage, sha256_file

SIDECAR = "everloop.json"
HASHED_FILES = ("model.safetensors", "config.json", "tokenizer.json")
RECORDED_PACKAGES = ("torch", "transformers", "trl", "tokenizers", "safetensors", "numpy")


class CheckpointRecord(BaseModel):
    """The content of everloop.json.

    Attributes:
        parent: tag of the model version that these weights were tuned from.
        metrics: val_loss and val_bpb where known, steps, tokens, seconds and counts of rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    files: dict[str, str]  # file name -> SHA-256
    datasets: tuple[DatasetRef, ...] = ()
    config: dict[str, str] = {}
    seed: int = 0
    packages: dict[str, str] = {}
    parent: str | None = None
    metrics: dict[str, float] = {}

    def setting(self, name: str) -> str | None:
        """A setting of the training, of whatever method; None where it was left open."""
        given = next(
            (value for key, value in self.config.items() if key.endswith(f".{name}")), "None"
        )
        return None if given == "None" else given


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint folder whose hashes were checked."""

    path: Path
    record: CheckpointRecord

    @property
    def sha256(self) -> str:
        """The identity of the weights."""
        single = self.record.files.get("model.safetensors")
        if single is not None:
            return single
        shards = sorted(item for item in self.record.files.items() if item[0] != "config.json")
        return hashlib.sha256("".join(value for _, value in shards).encode("ascii")).hexdigest()

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured when it was written."""
        return self.record.metrics

    @property
    def lineage(self) -> Lineage:
        """The lineage as a model version's manifest carries it."""
        return Lineage(
            checkpoint_sha256=self.sha256,
            datasets=self.record.datasets,
            parent=self.record.parent,
            config=self.record.config,
            seed=self.record.seed,
            packages=self.record.packages,
        )


def write_sidecar(
    folder: Path,
    *,
    datasets: Sequence[DatasetRef],
    config: Mapping[str, str],
    seed: int,
    parent: str | None,
    metrics: Mapping[str, float],
) -> Checkpoint:
    """Hash the files of a finished checkpoint folder and write everloop.json.

    Raises:
        ArtifactError: a file that belongs to a checkpoint is missing.
    """
    for name in HASHED_FILES:
        _require(folder / name)
    record = CheckpointRecord(
        files={name: sha256_file(folder / name) for name in HASHED_FILES},
        datasets=tuple(datasets),
        config=dict(config),
        seed=seed,
        packages={name: version(name) for name in RECORDED_PACKAGES},
        parent=parent,
        metrics=dict(metrics),
    )
    temporary = folder / f"{SIDECAR}.partial"
    temporary.write_text(record.model_dump_json(indent=1), encoding="utf-8")
    temporary.rename(folder / SIDECAR)
    return Checkpoint(folder, record)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint and verify its hashes; a foreign Hugging Face folder gets fresh ones.

    Raises:
        ArtifactError: the folder is no checkpoint, or a file is missing or was changed.
    """
    if not (folder / SIDECAR).is_file():
        return _read_foreign(folder)
    record = read_record(folder)
    for name, expected in record.files.items():
        _require(folder / name)
        found = sha256_file(folder / name)
        if found != expected:
            raise ArtifactError(
                f"{folder / name} was changed after the checkpoint was written: expected SHA-256 "
                f"{expected[:12]}, found {found[:12]}. Restore it or train again."
            )
    return Checkpoint(folder, record)


def read_record(folder: Path) -> CheckpointRecord:
    """Read everloop.json, which is there; the files that it names are not looked at.

    Raises:
        ArtifactError: another release wrote it.
    """
    path = folder / SIDECAR
    try:
        return CheckpointRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(
            f"{path}: {where}: {first['msg']}. Another release wrote it; train again."
        ) from error


def recorded_sha256(folder: Path) -> str | None:
    """The identity of a checkpoint as its sidecar says, unverified; None where there is none.

    A folder from elsewhere has no sidecar, so its weights are hashed.
    """
    path = folder / SIDECAR
    try:
        if not path.is_file():
            return _read_foreign(folder).sha256
        record = CheckpointRecord.model_validate_json(path.read_bytes())
    except (ArtifactError, ValidationError, OSError):
        return None
    return Checkpoint(folder, record).sha256


def _read_foreign(folder: Path) -> Checkpoint:
    for name in ("config.json", "tokenizer.json"):
        _require(folder / name)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ArtifactError(
            f"{folder} holds no *.safetensors file; weights are read from safetensors only. "
            "Convert the checkpoint first."
        )
    files = {path.name: sha256_file(path) for path in [*weights, folder / "config.json"]}
    return Checkpoint(folder, CheckpointRecord(files=files))


def _require(path: Path) -> None:
    if not path.is_file():
        raise ArtifactError(
            f"{path.parent} is no checkpoint: {path.name} is missing. Train again or restore it."
        )
