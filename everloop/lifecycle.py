"""From raw text to a saved model version, step by step; the store remembers what each step made.

dataset -> tokenizer and shards -> training (train_runs.py) -> export. A step takes the newest
result of the step before it, so the verbs of the command line can be called one after the other.
"""

import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
from rich.progress import Progress
from tokenizers import Tokenizer

from everloop.comparison_text import comparison_windows, newest_corpus
from everloop.errors import ArtifactError, NotFoundError
from everloop.inheritance import inherit
from everloop.progress import counted, counter
from everloop.records import DatasetInfo
from everloop.registry import ModelVersion, Registry
from everloop.settings import Home, RunFile
from feedback.store.datasets import DatasetVersion
from feedback.store.store import open_store
from training.checkpoint import Checkpoint, read_checkpoint
from training.dataset import DataConfig, build_dataset, read_info, read_rows
from training.dataset_folder import read_origins
from training.export.text_windows import TextWindows
from training.shards import ShardInfo, TokenShard, write_shards
from training.tokenizer import TokenizerConfig, train_tokenizer

MAX_TITLES = 50_000  # documents of a dataset that the store knows by more than their id
EXPORT_WINDOWS = 64  # validation windows on which the precisions are compared
_PROMPTS, _PROMPT_TOKENS = 4, 24  # golden ones
MAX_WINDOW_TOKENS = 4096  # of one window, however long the texts are that a model takes


def build_data(home: Home, run: RunFile, progress: Progress | None = None) -> DatasetInfo:
    """Build the dataset version of `[data]` and record it with its rows."""
    config = run.table("data", DataConfig)
    info = build_dataset(config, home, counter(progress))
    dropped = {
        f"{step}: {reason}": count
        for step, reasons in info.dropped.items()
        for reason, count in reasons.items()
    }
    version = DatasetVersion(
        id=info.id,
        kind="corpus",
        merkle_root=info.merkle_root,
        rows=info.rows,
        dropped=dropped,
        documents=_titles(home.data / info.id),
    )
    store = open_store(home.database_url)
    rows = counted(read_rows(home.data / info.id), progress, "record", info.rows)
    store.save_dataset(version, rows)
    store.close()
    return info


def _titles(folder: Path) -> dict[str, str]:
    """Document -> file and line, for those whose id says nothing; none where they are too many."""
    opaque = ((one.document, one.source) for one in read_origins(folder) if ":" in one.document)
    titles = dict(islice(opaque, MAX_TITLES + 1))
    return titles if len(titles) <= MAX_TITLES else {}


def newest_dataset(home: Home) -> DatasetInfo:
    """The corpus that was built last.

    Raises:
        NotFoundError: there is none yet.
    """
    newest = newest_corpus(home)
    if newest is None:
        raise NotFoundError(f"{home.root} has no dataset yet. Build one with: everloop data build")
    return read_info(home.data / newest)


def prepare_tokens(
    home: Home, run: RunFile, dataset: DatasetInfo, progress: Progress | None = None
) -> ShardInfo:
    """Train the tokenizer of a dataset, or take the given one, and encode the dataset's texts."""
    folder, tokenizer = home.data / dataset.id, home.tokenizers / dataset.id
    rows = counted(read_rows(folder), progress, "learn the vocabulary", dataset.rows)
    train_tokenizer(rows, run.table("tokenizer", TokenizerConfig), tokenizer)
    rows = counted(read_rows(folder), progress, "encode", dataset.rows)
    return write_shards(rows, tokenizer, home.shards / dataset.id, dataset.id)


def find_checkpoint(home: Home, name: str) -> Checkpoint:
    """The last checkpoint of a run by its name, or of a folder by its path.

    Raises:
        ArtifactError: neither a run nor a checkpoint folder has this name, or a file was changed.
    """
    methods = ("-dpo", "-kto", "-sft", "-pretrain", "")
    for folder in (home.runs / f"{name}{method}" for method in methods):
        if (folder / "checkpoint").is_dir():
            return read_checkpoint(folder / "checkpoint")
    if (Path(name) / "config.json").is_file():
        return read_checkpoint(Path(name))
    known = sorted(path.parent.name for path in home.runs.glob("*/checkpoint"))
    raise ArtifactError(
        f"no run and no checkpoint folder {name}; runs with a checkpoint: "
        f"{', '.join(known) or 'none yet'}. Train one with: everloop train"
    )


def checkpoint_of(home: Home, version: ModelVersion) -> Checkpoint:
    """The checkpoint that a model version was exported from.

    Raises:
        ArtifactError: its folder is gone, or was changed.
    """
    wanted = version.manifest.lineage.checkpoint_sha256
    for folder in sorted(home.runs.glob("*/checkpoint")):
        checkpoint = read_checkpoint(folder)
        if checkpoint.sha256 == wanted:
            return checkpoint
    raise ArtifactError(
        f"the checkpoint of {version.tag} (SHA-256 {wanted[:12]}) is in no run under {home.runs}. "
        "Restore its folder, or train and promote a new version."
    )


def export_version(
    home: Home, run: RunFile, checkpoint: Checkpoint, progress: Progress | None = None
) -> ModelVersion:
    """Export a checkpoint, save it in the model store and record it."""
    with tempfile.TemporaryDirectory(dir=home.root, prefix="export-") as staging:
        return save_version(home, export_folder(home, run, checkpoint, Path(staging), progress))


def export_folder(
    home: Home,
    run: RunFile,
    checkpoint: Checkpoint,
    staging: Path,
    progress: Progress | None = None,
) -> Path:
    """Export a checkpoint of a run into a folder, which nobody knows of yet."""
    from training.export import export_checkpoint
    from training.export.version import name_text

    config = inherit(home, run, checkpoint)
    text = validation_text(home, checkpoint, EXPORT_WINDOWS, max_context=config.max_model_len)
    folder = export_checkpoint(
        checkpoint.path,
        text.tokens,
        config=config,
        bytes_per_token=text.bytes_per_token,
        golden_prompts=golden_prompts(checkpoint, text.tokens),
        evaluation=checkpoint.metrics,
        staging=staging,
        progress=progress,
    )
    name_text(folder, text.name)
    return folder


def save_version(home: Home, folder: Path) -> ModelVersion:
    """Copy an exported folder into the model store and record it."""
    version = Registry(home).save(folder)
    store = open_store(home.database_url)
    store.record_model_version(version)
    store.close()
    return version


def validation_windows(
    home: Home, checkpoint: Checkpoint, limit: int, *, max_context: int | None = None
) -> tuple[np.ndarray, float]:
    """Windows of `validation_text`, (N, context + 1), and the bytes of text per token."""
    text = validation_text(home, checkpoint, limit, max_context=max_context)
    return text.tokens, text.bytes_per_token


def validation_text(
    home: Home, checkpoint: Checkpoint, limit: int, *, max_context: int | None = None
) -> TextWindows:
    """The texts that pre-training kept for validation, in at most `limit` windows spread over them.

    A checkpoint from elsewhere, which names no dataset, is measured on the text nearest to it.

    Args:
        limit: number of windows that are enough.
        max_context: tokens that a window may predict, where a version takes fewer than its weights.
    """
    used = [reference.id for reference in checkpoint.record.datasets if reference.use == "pretrain"]
    if not used:
        return comparison_windows(home, checkpoint.path, limit, max_context=max_context)
    shard = TokenShard.open(home.shards / used[0], "validation")
    longest = min(_context_length(checkpoint), max_context or MAX_WINDOW_TOKENS)
    context = min(longest, len(shard.tokens) - 1)
    windows = shard.windows(context)
    chosen = np.linspace(0, len(windows) - 1, min(limit, len(windows))).astype(int)
    return TextWindows(
        np.array(windows[chosen]), shard.bytes_per_token, name=f"validation texts of {used[0]}"
    )


def _context_length(checkpoint: Checkpoint) -> int:
    """Tokens of a window: all that the model takes, where that is not out of proportion."""
    # Imported here, as the exporter is: torch. Families name the setting differently.
    from training.pretrained import load_config

    return min(int(load_config(checkpoint.path).max_position_embeddings), MAX_WINDOW_TOKENS)


def golden_prompts(checkpoint: Checkpoint, windows: np.ndarray) -> list[str]:
    """Prompts whose continuations every later load must repeat: beginnings of unseen text."""
    tokenizer = Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))
    tokens = windows[:, :-1].ravel()
    starts = np.linspace(0, len(tokens), _PROMPTS, endpoint=False).astype(int)
    return [tokenizer.decode(tokens[at : at + _PROMPT_TOKENS].tolist()) for at in starts]
