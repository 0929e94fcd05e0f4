"""Train, evaluate and compare by name, within a home folder. Wiring only.

A run's folder is called after its name and its method: `base-pretrain`, `base-sft`, `base-kto`. A
method that starts from a checkpoint takes the last one of the same name, or the one it is given.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.progress import Progress

from everloop.errors import ArtifactError
from everloop.evaluate_runs import report_training
from everloop.inheritance import origin_tag
from everloop.lifecycle import find_checkpoint, newest_dataset
from everloop.manifest import DatasetRef
from everloop.records import DatasetInfo
from everloop.settings import Home, RunFile
from training.checkpoint import Checkpoint, read_checkpoint
from training.config import (
    DpoConfig,
    KtoConfig,
    ModelConfig,
    PretrainConfig,
    SftConfig,
    TuneConfig,
)
from training.dataset import read_rows
from training.shards import read_shard_info
from training.tokens import TokenizerFolder

logger = logging.getLogger(__name__)

Method = Literal["pretrain", "sft", "kto", "dpo", "both"]

_TUNING: dict[str, type[TuneConfig]] = {"sft": SftConfig, "kto": KtoConfig, "dpo": DpoConfig}
# What a method starts from, the first that is there.
_PARENTS = {"sft": ("pretrain",), "kto": ("sft", "pretrain"), "dpo": ("sft", "pretrain")}
# What tells how well a method went: conversations alone, since replayed texts are many and long.
_HELD_KINDS = {"sft": ("chat",), "kto": ("rated", "preference"), "dpo": ("preference",)}


def train_run(
    home: Home,
    run: RunFile,
    name: str,
    method: Method,
    *,
    parent: str | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """Train on the newest dataset by one method and report.

    `both` is pretrain, then sft if the dataset has conversations.

    Args:
        name: of the run.
        parent: run or checkpoint folder to start from.
        progress: where to show bars.

    Raises:
        NotFoundError: there is no dataset yet.
        ArtifactError: there is nothing to start from.
    """
    _check_tables(run)
    dataset = newest_dataset(home)
    start = None if parent is None else find_checkpoint(home, parent).path
    if method in ("pretrain", "both"):
        checkpoint = _pretrain(home, run, name, dataset, start, progress)
        report_training(home, checkpoint, start)
        if method == "pretrain" or not _has_conversations(dataset):
            return checkpoint
        start, method = checkpoint.path, "sft"
    start = start or _parent(home, name, method)
    checkpoint = _tune(home, run, name, method, dataset, start, progress)
    report_training(home, checkpoint, start)
    return checkpoint


def describe_run(home: Home, run: RunFile, method: Method) -> str:
    """One line about what a run will train, with the widths and rates that follow from its size.

    Raises:
        NotFoundError: there is no dataset yet.
    """
    from training.models import describe

    _check_tables(run)
    if method not in ("pretrain", "both"):
        return f"{method} on {newest_dataset(home).id}"
    info = read_shard_info(home.shards / newest_dataset(home).id)
    vocabulary = TokenizerFolder.read(home.tokenizers / info.dataset_id).vocab_size
    return describe(
        run.table("model", ModelConfig), run.table("pretrain", PretrainConfig), vocabulary
    )


def _check_tables(run: RunFile) -> None:
    """Refuse a wrong key before anything is read, of whatever method."""
    run.table("model", ModelConfig)
    run.table("pretrain", PretrainConfig)
    for table, schema in _TUNING.items():
        run.table(table, schema)


def _pretrain(
    home: Home,
    run: RunFile,
    name: str,
    dataset: DatasetInfo,
    parent: Path | None,
    progress: Progress | None,
) -> Checkpoint:
    from training.pretrain import pretrain

    return pretrain(
        home.shards / dataset.id,
        home.tokenizers / dataset.id,
        home.runs / f"{name}-pretrain",
        run.table("model", ModelConfig),
        run.table("pretrain", PretrainConfig),
        parent=parent,
        datasets=[_reference(dataset, "pretrain")],
        progress=progress,
    )


def _tune(
    home: Home,
    run: RunFile,
    name: str,
    method: str,
    dataset: DatasetInfo,
    parent: Path,
    progress: Progress | None,
) -> Checkpoint:
    from training.tune import fine_tune

    rows = list(read_rows(home.data / dataset.id))
    learnt = _kinds(method)
    return fine_tune(
        parent,
        [row for row in rows if row.split == "train" and row.kind in learnt],
        [row for row in rows if row.split == "validation" and row.kind in _HELD_KINDS[method]],
        home.runs / f"{name}-{method}",
        run.table(method, _TUNING[method]),
        datasets=[_reference(dataset, "sft")],
        parent_tag=origin_tag(home, read_checkpoint(parent)),
        progress=progress,
    )


def _has_conversations(dataset: DatasetInfo) -> bool:
    if any(kinds.get("chat") for kinds in dataset.counts.values()):
        return True
    logger.info("sft skipped: dataset %s has no conversations", dataset.id)
    return False


def _kinds(method: str) -> Sequence[str]:
    return ("chat", "text") if method == "sft" else _HELD_KINDS[method]


def _parent(home: Home, name: str, method: str) -> Path:
    for before in _PARENTS[method]:
        folder = home.runs / f"{name}-{before}" / "checkpoint"
        if folder.is_dir():
            return folder
    raise ArtifactError(
        f"{method} starts from a checkpoint, and run {name} has none yet. Train one with: everloop "
        f"train {name} --method pretrain, or name another with --from."
    )


def _reference(dataset: DatasetInfo, use: Literal["pretrain", "sft"]) -> DatasetRef:
    return DatasetRef(id=dataset.id, merkle_root=dataset.merkle_root, rows=dataset.rows, use=use)
