"""A Hugging Face folder from elsewhere becomes a saved model version.

Nothing is trained, downloaded or copied: the home keeps the version and a link to the folder, so
that the model can be tuned, by hand or by the loop, for as long as the folder is there.
"""

import re
import tempfile
from pathlib import Path

from rich.progress import Progress

from everloop.comparison_text import comparison_windows
from everloop.errors import ArtifactError
from everloop.lifecycle import EXPORT_WINDOWS, save_version
from everloop.registry import ModelVersion
from everloop.settings import Home, RunFile
from training.export.config import ExportConfig

# Tokens of prompt and answer where neither the command nor [export] says: a cache slot is reserved
# for each sequence at this length, and models of today take up to a million.
DEFAULT_MAX_MODEL_LEN = 4096


def import_checkpoint(
    home: Home,
    run: RunFile,
    checkpoint: Path,
    *,
    text: str | None = None,
    progress: Progress | None = None,
) -> ModelVersion:
    """Export the checkpoint of a folder, save it in the model store and record it.

    Args:
        home: where the version is kept.
        run: its table [export]; a name that it does not give is that of the folder.
        checkpoint: config.json, safetensors (whole or in shards) and tokenizer.json.
        text: file, folder, pattern or URL of text to compare the precisions on.
        progress: shows the validation losses.

    Raises:
        ArtifactError: the folder is no checkpoint, or one that cannot be expressed as a graph.
        DataError: the text cannot be read, or is too short.
        RefusedError: the graph differs from torch, or a precision loses too much.
    """
    from training.export.architecture import read_architecture
    from training.export.special_tokens import read_special_tokens
    from training.export.tokenizer_files import read_chat_template
    from training.export.version import export_checkpoint
    from training.export.weights import weight_files

    if not checkpoint.is_dir():
        raise ArtifactError(f"{checkpoint} is no folder. Name the folder that holds config.json.")
    weight_files(checkpoint)  # what can be refused is refused before anything is measured
    longest = read_architecture(checkpoint).max_seq_len
    config = run.table("export", ExportConfig)
    windows = comparison_windows(
        home, checkpoint, EXPORT_WINDOWS, place=text, max_context=config.max_model_len
    )
    read_chat_template(checkpoint)
    read_special_tokens(checkpoint)
    length = config.max_model_len or min(longest, DEFAULT_MAX_MODEL_LEN)
    named = {} if "name" in run.values.get("export", {}) else {"name": name_of(checkpoint)}
    config = config.model_copy(update={"max_model_len": length, **named})
    with tempfile.TemporaryDirectory(dir=home.root, prefix="import-") as staging:
        folder = export_checkpoint(
            checkpoint,
            windows.tokens,
            config=config,
            bytes_per_token=windows.bytes_per_token,
            golden_prompts=windows.prompts,
            evaluation={},
            staging=Path(staging),
            progress=progress,
        )
        version = save_version(home, folder)
    _remember(home, version, checkpoint)
    return version


def name_of(checkpoint: Path) -> str:
    """A model's name from that of its folder: `SmolLM2 135M/` gives `smollm2-135m`."""
    name = re.sub(r"[^-_.a-z0-9]+", "-", checkpoint.resolve().name.lower()).strip("-_.")
    return name[:63].rstrip("-_.") or "imported"


def _remember(home: Home, version: ModelVersion, checkpoint: Path) -> None:
    """Link the folder among the runs, where tuning and the loop look for checkpoints."""
    manifest = version.manifest
    run = home.runs / manifest.name
    if run.exists():
        run = home.runs / f"{manifest.name}-{manifest.lineage.checkpoint_sha256[:6]}"
    if not run.exists():
        run.mkdir(parents=True)
        (run / "checkpoint").symlink_to(checkpoint.resolve(), target_is_directory=True)
