"""What a version takes over from the one that its weights were trained from.

An import may need limits, a length or a name of its own. They are kept in the manifest, so that
neither a round of the loop nor a later command has to be told them again.
"""

from everloop.manifest import Manifest
from everloop.settings import Home, RunFile
from feedback.store.store import open_store
from training.checkpoint import Checkpoint
from training.export.config import ExportConfig


def origin_tag(home: Home, checkpoint: Checkpoint) -> str | None:
    """Tag of the newest version of these weights, else of the one that they were trained from."""
    same = _newest_of(home, checkpoint)
    return checkpoint.record.parent if same is None else same.tag


def inherit(home: Home, run: RunFile, checkpoint: Checkpoint) -> ExportConfig:
    """The table [export] for a checkpoint, with what its parent was given under what the run says.

    Weights from elsewhere have no parent: they go by what they were imported with.

    Raises:
        ConfigError: the run's table is wrong.
    """
    parent = _parent(home, checkpoint)
    if parent is None:
        return run.table("export", ExportConfig)
    # Versions of before kept no settings.
    kept = parent.settings or {"name": parent.name, "max_model_len": parent.max_model_len}
    known = {key: value for key, value in kept.items() if key in ExportConfig.model_fields}
    known["sampling"] = parent.sampling.model_dump(mode="json")
    table = {**known, **run.values.get("export", {})}
    return RunFile(run.name, {**run.values, "export": table}).table("export", ExportConfig)


def _parent(home: Home, checkpoint: Checkpoint) -> Manifest | None:
    record = checkpoint.record
    if record.parent is not None:
        found = (each for each in _manifests(home) if each.tag == record.parent)
        return next(found, None)
    return None if record.datasets else _newest_of(home, checkpoint)


def _newest_of(home: Home, checkpoint: Checkpoint) -> Manifest | None:
    same = [
        each for each in _manifests(home) if each.lineage.checkpoint_sha256 == checkpoint.sha256
    ]
    return same[-1] if same else None


def _manifests(home: Home) -> list[Manifest]:
    store = open_store(home.database_url)
    manifests = [version.manifest for version in store.model_versions()]
    store.close()
    return manifests
