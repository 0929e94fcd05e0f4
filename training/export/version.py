"""Assemble a model version: graph, tokenizer, golden continuations, reports and manifest.

Nothing is published here: the finished folder lies in the staging folder, and the registry copies
it into the model store. A version that does not prove itself is refused with its numbers.
"""

import logging
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from everloop.errors import ArtifactError, ConfigError, RefusedError
from everloop.manifest import (
    FILE_NAME,
    ExportReport,
    Manifest,
    StateTensor,
    sha256_file,
)
from training.checkpoint import read_checkpoint
from training.export.config import ExportConfig
from training.export.families import Architecture, read_architecture
from training.export.golden import make_golden
from training.export.graph import Precision, state_names, write_graph
from training.export.losses import check_windows, session_losses
from training.export.parity import MIN_MODEL_LEN, max_abs_logit_diff
from training.export.session import open_session
from training.export.special_tokens import read_special_tokens
from training.export.weights import Weights, weight_files

GOLDEN_FILE = "golden.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

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
) -> Path:
    """Export a checkpoint into a finished, verified model version folder.

    Args:
        checkpoint: Hugging Face folder with tokenizer.json; with everloop.json its hashes are
            checked.
        validation_windows: token ids [N, context + 1].
        config: the table [export].
        bytes_per_token: UTF-8 bytes of the validation text per token, for bits per byte.
        golden_prompts: at least three.
        evaluation: further figures for the manifest.
        staging: the folder is made in it, named after the version.

    Raises:
        ArtifactError: the checkpoint is damaged, or cannot be expressed as a graph.
        ConfigError: max_model_len is out of the model's range.
        DataError: the windows or the prompts do not fit.
        RefusedError: the graph differs from torch, or int8 loses too much.
    """
    weight_files(checkpoint)
    lineage = read_checkpoint(checkpoint).lineage
    architecture = read_architecture(checkpoint)
    max_model_len = _max_model_len(config, architecture)
    check_windows(validation_windows, max_model_len, architecture.vocab_size)
    created = datetime.now(UTC)
    version = f"v{created:%Y%m%d%H%M%S}-{lineage.checkpoint_sha256[:6]}"
    target = staging / version
    if target.exists():
        raise ArtifactError(f"{target} already exists. Remove it or export into another folder.")
    staging.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=staging, prefix=".partial-") as temporary:
        folder = Path(temporary) / version
        folder.mkdir()
        parameters, report = _verified_graph(
            _Job(checkpoint, architecture, validation_windows, config, max_model_len),
            bytes_per_token,
            folder,
            Path(temporary),
        )
        special_tokens = read_special_tokens(checkpoint)
        for name in _TOKENIZER_FILES:
            if (checkpoint / name).is_file():
                shutil.copyfile(checkpoint / name, folder / name)
        golden = make_golden(
            open_session(folder / "model.onnx"),
            Tokenizer.from_file(str(folder / "tokenizer.json")),
            golden_prompts,
            max_model_len=max_model_len,
            bos_token_id=special_tokens.bos_token_id or special_tokens.pad_token_id,
        )
        (folder / GOLDEN_FILE).write_text(golden.model_dump_json(indent=1), encoding="utf-8")
        manifest = Manifest(
            name=config.name,
            version=version,
            family=architecture.model_type,
            architecture=architecture.family.architecture,
            parameters=parameters,
            vocab_size=architecture.vocab_size,
            hidden_size=architecture.n_embd,
            max_model_len=max_model_len,
            max_query_len=config.max_query_len,
            special_tokens=special_tokens,
            state=_state(architecture),
            weight_precision=config.precision,
            export=report,
            evaluation=dict(evaluation),
            lineage=lineage,
            files={path.name: sha256_file(path) for path in sorted(folder.iterdir())},
        )
        (folder / FILE_NAME).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        folder.rename(target)
    logger.info("exported tag=%s val_loss=%.4f", manifest.tag, report.val_loss)
    return target


@dataclass(frozen=True, slots=True)
class _Job:
    """What every stage of one export needs."""

    checkpoint: Path
    architecture: Architecture
    windows: np.ndarray
    config: ExportConfig
    max_model_len: int

    def write(self, folder: Path, precision: Precision) -> int:
        """Write one graph; give the number of parameters."""
        weights = Weights.read(self.checkpoint)
        positions = self.max_model_len + self.config.max_query_len
        write_graph(self.architecture, weights, folder, precision=precision, positions=positions)
        return weights.parameters


def _verified_graph(
    job: _Job, bytes_per_token: float, folder: Path, scratch: Path
) -> tuple[int, ExportReport]:
    """Write the graph into `folder`, and prove it; the fp32 one is always built and compared."""
    is_fp32 = job.config.precision == "fp32"
    fp32_folder = folder if is_fp32 else scratch / "fp32"
    fp32_folder.mkdir(exist_ok=True)
    parameters = job.write(fp32_folder, "fp32")
    session = open_session(fp32_folder / "model.onnx")
    difference = _check_parity(job, session)
    loss_fp32 = loss = float(session_losses(session, job.windows).mean())
    if not is_fp32:
        job.write(folder, "int8")
        session = open_session(folder / "model.onnx")
        loss = float(session_losses(session, job.windows).mean())
        _check_int8(loss_fp32, loss, job.config.max_int8_loss_increase)
    return parameters, ExportReport(
        max_abs_logit_diff=difference,
        val_loss_fp32=loss_fp32,
        val_loss=loss,
        val_bpb=loss / math.log(2) / bytes_per_token,
        validation_tokens=job.windows.shape[0] * (job.windows.shape[1] - 1),
    )


def _check_parity(job: _Job, session: object) -> float:
    model = AutoModelForCausalLM.from_pretrained(
        job.checkpoint,
        dtype=torch.float32,
        attn_implementation="eager",
        local_files_only=True,
        use_safetensors=True,
    ).eval()
    difference = max_abs_logit_diff(
        model,
        session,
        max_model_len=job.max_model_len,
        max_query_len=job.config.max_query_len,
    )
    if not difference <= job.config.max_fp32_diff:
        raise RefusedError(
            f"{job.checkpoint}: the fp32 graph differs from torch by {difference:.2e} in a logit, "
            f"the limit is {job.config.max_fp32_diff:.2e} (export.max_fp32_diff)."
        )
    return difference


def _check_int8(loss_fp32: float, loss_int8: float, limit: float) -> None:
    increase = loss_int8 / loss_fp32 - 1
    if not increase <= limit:
        raise RefusedError(
            f"int8 raises the validation loss from {loss_fp32:.4f} to {loss_int8:.4f} "
            f"({increase:+.2%}), the limit is {limit:+.2%} (export.max_int8_loss_increase). "
            "Export with precision fp32."
        )


def _max_model_len(config: ExportConfig, architecture: Architecture) -> int:
    length = config.max_model_len or architecture.max_seq_len
    if not MIN_MODEL_LEN <= length <= architecture.max_seq_len:
        raise ConfigError(
            f"export.max_model_len must lie between {MIN_MODEL_LEN} and the "
            f"{architecture.max_seq_len:,} positions of the checkpoint, got {length:,}."
        )
    return length


def _state(architecture: Architecture) -> tuple[StateTensor, ...]:
    return tuple(
        StateTensor(
            input=past,
            output=present,
            kind="kv",
            shape=(architecture.n_kv_head, "capacity", architecture.head_dim),
            dtype="float32",
        )
        for layer in range(architecture.n_layer)
        for past, present in state_names(layer)
    )
