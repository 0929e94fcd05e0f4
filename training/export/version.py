"""Assemble a model version: graph, tokenizer, golden continuations, reports and manifest.

Nothing is published here: the finished folder lies in the staging folder, and the registry copies
it into the model store. A version that does not prove itself is refused with its numbers.
"""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.progress import Progress
from tokenizers import Tokenizer

from everloop.errors import ArtifactError, ConfigError
from everloop.manifest import (
    FILE_NAME,
    Lineage,
    Manifest,
    SpecialTokens,
    sha256_file,
)
from everloop.progress import stage
from everloop.sampling_defaults import SamplingDefaults
from everloop.wide_graph import FILE_NAME as WIDE_FILE
from training.checkpoint import read_checkpoint
from training.export.architecture import Architecture, Attention, read_architecture
from training.export.config import ExportConfig
from training.export.golden import make_golden
from training.export.graph import MODEL_FILE
from training.export.graph_export import GraphExport, ProvenGraph, split_windows
from training.export.losses import check_windows
from training.export.parity import MIN_MODEL_LEN
from training.export.sampling import read_sampling
from training.export.session import open_session
from training.export.special_tokens import read_special_tokens
from training.export.state import state_tensors
from training.export.tokenizer_files import copy_tokenizer
from training.export.weights import weight_files
from training.export.wide_graph import write_wide_graph

GOLDEN_FILE = "golden.json"

logger = logging.getLogger(__name__)


def export_checkpoint(
    checkpoint: Path,
    validation_windows: np.ndarray,
    *,
    config: ExportConfig,
    bytes_per_token: float,
    golden_prompts: Sequence[str],
    evaluation: Mapping[str, float],
    staging: Path,
    progress: Progress | None = None,
) -> Path:
    """Export a checkpoint into a finished, verified model version folder.

    Args:
        checkpoint: Hugging Face folder with tokenizer.json; with everloop.json its hashes are
            checked.
        validation_windows: token ids [N, context + 1]; int4 weights are fitted to every fourth,
            which no loss is then measured on. Precisions are compared on as few as that takes.
        config: the table [export].
        bytes_per_token: UTF-8 bytes of the validation text per token, for bits per byte.
        golden_prompts: at least three.
        evaluation: further figures for the manifest.
        staging: made if absent; the folder is made in it, named after the version.
        progress: shows what is measured, and where its steps are counted how long it will take.

    Raises:
        ArtifactError: the checkpoint is damaged, or cannot be expressed as a graph.
        ConfigError: max_model_len is out of the model's range.
        DataError: the windows or the prompts do not fit.
        RefusedError: the graph differs from torch, or no wanted precision keeps its limit.
    """
    weight_files(checkpoint)
    lineage = read_checkpoint(checkpoint).lineage
    architecture = read_architecture(checkpoint)
    max_model_len = _max_model_len(config, architecture)
    sampling = config.sampling or read_sampling(checkpoint, lineage)
    check_windows(validation_windows, max_model_len, architecture.vocab_size)
    windows, calibration = split_windows(validation_windows, config)
    export = GraphExport(
        checkpoint=checkpoint,
        architecture=architecture,
        config=config,
        max_model_len=max_model_len,
        windows=windows,
        calibration=calibration,
        bytes_per_token=bytes_per_token,
        # Losses of versions that were pre-trained here are compared with one another.
        least_windows=len(windows) if _is_pretrained_here(lineage) else 0,
        progress=progress,
    )
    target = _version_folder(staging, lineage)
    with tempfile.TemporaryDirectory(dir=staging, prefix=".partial-") as temporary:
        folder = Path(temporary) / target.name
        folder.mkdir()
        proven = export.run(folder, scratch=Path(temporary))
        _complete(folder, export, proven, lineage, golden_prompts, evaluation, sampling)
        folder.rename(target)
    return target


def name_text(folder: Path, name: str) -> None:
    """Note in a version that is not saved yet what its losses were measured on, for people."""
    path = folder / FILE_NAME
    manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    report = manifest.export.model_copy(update={"validation_text": name})
    named = manifest.model_copy(update={"export": report})
    path.write_text(named.model_dump_json(indent=1), encoding="utf-8")


def _complete(
    folder: Path,
    export: GraphExport,
    proven: ProvenGraph,
    lineage: Lineage,
    golden_prompts: Sequence[str],
    evaluation: Mapping[str, float],
    sampling: SamplingDefaults,
) -> None:
    """Write everything that a version holds besides its graph."""
    special_tokens = read_special_tokens(export.checkpoint)
    copy_tokenizer(export.checkpoint, folder, export.architecture.vocab_size)
    write_wide_graph(folder / MODEL_FILE, folder / WIDE_FILE)
    with stage(export.progress, "Golden continuations"):
        _write_golden(folder, golden_prompts, export.max_model_len, special_tokens)
    manifest = _manifest(folder, export, proven, special_tokens, lineage, evaluation, sampling)
    (folder / FILE_NAME).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    logger.info(
        "model version exported tag=%s weights=%s cache=%s",
        manifest.tag,
        manifest.weight_precision,
        manifest.cache_precision,
    )


def _is_pretrained_here(lineage: Lineage) -> bool:
    return any(dataset.use == "pretrain" for dataset in lineage.datasets)


def _version_folder(staging: Path, lineage: Lineage) -> Path:
    """Where a version will be, in a folder that is there; nothing is there yet."""
    folder = staging / _version_name(lineage)
    if folder.exists():
        raise ArtifactError(f"{folder} already exists. Remove it or export into another folder.")
    staging.mkdir(parents=True, exist_ok=True)
    return folder


def _version_name(lineage: Lineage) -> str:
    """When it was made, to the millisecond, and of which weights."""
    now = datetime.now(UTC)
    moment = f"{now:%Y%m%d%H%M%S}-{now.microsecond // 1000:03}"
    return f"v{moment}-{lineage.checkpoint_sha256[:6]}"


def _max_model_len(config: ExportConfig, architecture: Architecture) -> int:
    length = config.max_model_len or architecture.max_seq_len
    if not architecture.is_length_bound and length >= MIN_MODEL_LEN:
        return length
    if not MIN_MODEL_LEN <= length <= architecture.max_seq_len:
        raise ConfigError(
            f"export.max_model_len must lie between {MIN_MODEL_LEN} and the "
            f"{architecture.max_seq_len:,} positions of the checkpoint, got {length:,}."
        )
    return length


def _write_golden(
    folder: Path, prompts: Sequence[str], max_model_len: int, special_tokens: SpecialTokens
) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    first = special_tokens.bos_token_id
    wide = folder / WIDE_FILE
    golden = make_golden(
        open_session(folder / MODEL_FILE),
        tokenizer,
        prompts,
        wide=open_session(wide) if wide.exists() else None,
        max_model_len=max_model_len,
        empty_prompt_token_id=special_tokens.pad_token_id if first is None else first,
    )
    (folder / GOLDEN_FILE).write_text(golden.model_dump_json(indent=1), encoding="utf-8")


def _manifest(
    folder: Path,
    export: GraphExport,
    proven: ProvenGraph,
    special_tokens: SpecialTokens,
    lineage: Lineage,
    evaluation: Mapping[str, float],
    sampling: SamplingDefaults,
) -> Manifest:
    architecture, body = export.architecture, export.architecture.body
    return Manifest(
        name=export.config.name,
        version=folder.name,
        family=architecture.model_type,
        architecture=architecture.family.architecture,
        parameters=proven.parameters,
        vocab_size=architecture.vocab_size,
        hidden_size=architecture.n_embd,
        num_attention_heads=body.n_head if isinstance(body, Attention) else None,
        max_model_len=export.max_model_len,
        # No step of a row is wider than the row; learned positions end with the longest.
        max_query_len=min(export.config.max_query_len, export.max_model_len),
        special_tokens=special_tokens,
        state=state_tensors(architecture, proven.precision.cache),
        weight_precision=proven.precision.weights,
        block_size=proven.precision.block_size,
        has_hidden_states=export.config.embeddings,
        sampling=sampling,
        licence=export.config.licence,
        settings=export.config.model_dump(mode="json", exclude_unset=True, exclude={"sampling"}),
        export=proven.report,
        evaluation=dict(evaluation),
        lineage=lineage,
        files={path.name: sha256_file(path) for path in sorted(folder.iterdir())},
    )
