"""What a home folder may forget: old model versions, old weights of runs, old runs. Wiring only.

A round of the loop leaves a checkpoint and a model version behind. What stays, whatever the
numbers of `[retention]` say: the champion, the version that a rollback returns to, what the newest
decisions name, what is pinned, a run that trains now, and the checkpoint of every version that
stays. Rows of the store stay as well, so an old answer can still be traced.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import Field

from everloop.errors import ConfigError, EverloopError
from everloop.registry import Registry
from everloop.settings import Config, Home, RunFile
from feedback.rollout import succession
from feedback.store.store import Store
from training.checkpoint import recorded_sha256

logger = logging.getLogger(__name__)


class RetentionConfig(Config):
    """Table [retention]: what stays in the home besides what is in use."""

    versions: int = Field(3, ge=1, description="newest model versions that stay")
    decisions: int = Field(
        10, ge=0, description="newest decisions about versions; the versions they name stay"
    )
    checkpoints: int = Field(3, ge=1, description="newest runs whose weights stay")
    runs: int = Field(20, ge=1, description="newest runs whose reports and losses stay")
    pinned: tuple[str, ...] = Field(
        (), strict=False, description="tags of versions and names of runs that always stay"
    )
    after_round: bool = Field(
        False, description="remove the rest after each round of the loop, without being asked"
    )


@dataclass(frozen=True, slots=True)
class Kept:
    """One thing that a home holds, and why it stays; `because` is None for what may go."""

    kind: Literal["version", "checkpoint", "run"]
    name: str
    path: Path
    size_bytes: int
    because: str | None


def survey(home: Home, config: RetentionConfig, store: Store) -> list[Kept]:
    """Everything of a home that retention is about, oldest first, with what becomes of it.

    Raises:
        ConfigError: a pinned name is neither a version nor a run.
        ArtifactError: a version's manifest cannot be read.
    """
    versions = Registry(home).list()
    runs = _runs_by_age(home)
    known = {version.tag for version in versions} | {run.name for run in runs}
    for name in config.pinned:
        if name not in known:
            raise ConfigError(
                f"retention.pinned: {name} is no model version and no run of {home.root}. "
                "Take a tag from `everloop models list`, or the name of a folder in runs/."
            )
    reasons = _versions_in_use(store, config)
    for version in versions[-config.versions :]:
        reasons.setdefault(version.tag, f"one of the newest {config.versions}")
    found = [
        Kept("version", one.tag, one.path, _size(one.path), reasons.get(one.tag))
        for one in versions
    ]
    weights = {
        one.manifest.lineage.checkpoint_sha256: one.tag for one in versions if one.tag in reasons
    }
    for place, run in enumerate(reversed(runs)):
        found[len(versions) : len(versions)] = _survey_run(run, place, config, weights)
    return found


def prune(home: Home, config: RetentionConfig, store: Store) -> list[Kept]:
    """Remove what may go, and give what was removed.

    Each version is looked at again before it goes: it may have become champion meanwhile.

    Raises:
        ConfigError: a pinned name is neither a version nor a run.
        ArtifactError: a version's manifest cannot be read.
        EverloopError: a file cannot be removed.
    """
    removed = []
    for one in survey(home, config, store):
        if one.because is not None:
            continue
        try:
            if one.kind != "version":
                is_gone = _remove_of_run(one)
            elif is_gone := one.name not in _versions_in_use(store, config):
                Registry(home).delete(one.name)
        except OSError as error:
            raise EverloopError(
                f"{one.path} cannot be removed ({error.strerror or error}). Mend its permissions "
                "and run the command again."
            ) from error
        if is_gone:
            removed.append(one)
            logger.info("removed %s %s bytes=%d", one.kind, one.name, one.size_bytes)
    return removed


def prune_after_round(home: Home, run: RunFile, store: Store) -> None:
    """Do what `retention.after_round` asks for; what goes wrong is logged and ends no round."""
    config = run.table("retention", RetentionConfig)
    if not config.after_round:
        return
    try:
        prune(home, config, store)
    except EverloopError as error:
        logger.error("retention failed: %s", error)


def _versions_in_use(store: Store, config: RetentionConfig) -> dict[str, str]:
    """Tag -> why this version stays, however old it is; the weightiest reason."""
    reasons = dict.fromkeys(config.pinned, "pinned")
    decisions = [one for one in store.decisions() if one.kind != "trigger"]
    for decision in reversed(decisions[: config.decisions]):
        for tag in (decision.champion, decision.candidate):
            if tag is not None:
                reasons[tag] = f"named by a decision on its {decision.kind}: {decision.verdict}"
    line = succession(store.deployments()[::-1])
    if len(line) > 1:
        reasons[line[-2]] = "a rollback returns to it"
    champion = store.champion()
    if champion is not None:
        if champion.status == "pending" and champion.previous is not None:
            reasons[champion.previous] = "answers until the next champion is live"
        reasons[champion.model_version] = "champion"
    return reasons


def _survey_run(
    run: Path, place: int, config: RetentionConfig, weights: dict[str, str]
) -> Iterator[Kept]:
    """A run's weights and, where nothing else is left of it, or nobody wants the rest, the run.

    Args:
        run: its folder.
        place: 0 for the newest run.
        config: says how many stay.
        weights: SHA-256 of the checkpoints of the versions that stay, with their tags.
    """
    held = _weights_of(run)
    sha256 = recorded_sha256(run / "checkpoint")
    because = None
    if run.name in config.pinned:
        because = "pinned"
    elif sha256 in weights:
        because = f"checkpoint of {weights[sha256]}"
    elif _is_training(run):
        because = "trains now"
    elif place < config.checkpoints:
        because = f"one of the newest {config.checkpoints}"
    elif held and sha256 is None and (run / "checkpoint").is_dir():
        because = "its record cannot be read"
    if because is None and (place >= config.runs or not (run / "run.json").is_file()):
        yield Kept("run", run.name, run, _size(run), None)
    elif held:
        size = sum(map(_size, held))
        yield Kept("checkpoint", run.name, run, size, because)


def _remove_of_run(one: Kept) -> bool:
    """Remove a run or its weights, unless a training has taken its folder meanwhile."""
    lock = FileLock(one.path / "run.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    try:
        for path in [one.path] if one.kind == "run" else _weights_of(one.path):
            if path.is_symlink():  # an imported folder belongs to whoever made it
                path.unlink()
            else:
                shutil.rmtree(path)
    finally:
        lock.release()
    return True


def _runs_by_age(home: Home) -> list[Path]:
    """Folders of runs, the one that was begun last at the end."""
    runs = [path for path in home.runs.glob("*") if path.is_dir()]
    return sorted(runs, key=lambda run: (_begun(run), run.name))


def _begun(run: Path) -> float:
    """When a run was begun: its settings are written once; an imported checkpoint has none."""
    marks = (run / "run.json", run / "checkpoint", run)
    return next(mark for mark in marks if os.path.lexists(mark)).lstat().st_mtime


def _weights_of(run: Path) -> list[Path]:
    """The result of a run, whole or half written, and the states of an unfinished one."""
    names = ("checkpoint", "checkpoint.partial", "trainer")
    return [run / name for name in names if os.path.lexists(run / name)]


def _is_training(run: Path) -> bool:
    if not (run / "run.lock").is_file():
        return False
    lock = FileLock(run / "run.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _size(path: Path) -> int:
    """Bytes under a path; what a link leads to is not counted."""
    if path.is_symlink() or path.is_file():
        return path.lstat().st_size
    files = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    return sum(file.lstat().st_size for file in files)
