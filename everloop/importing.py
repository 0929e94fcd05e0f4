"""A model from elsewhere, a Hugging Face folder or a GGUF file, becomes a saved model version.

Nothing is trained or downloaded. Of a folder, the home keeps the version and a link, so that the
model can be tuned, by hand or by the loop, for as long as the folder is there. A GGUF file is
converted into a folder, which the home keeps itself.
"""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.progress import Progress

from everloop.comparison_text import comparison_windows
from everloop.errors import ArtifactError
from everloop.lifecycle import EXPORT_WINDOWS, save_version
from everloop.manifest import sha256_file
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
    """Export the checkpoint of a folder or GGUF file, save it in the model store and record it.

    Args:
        home: where the version is kept.
        run: its table [export]; a name that it does not give is that of the folder or GGUF file.
        checkpoint: a folder with config.json, safetensors (whole or in shards) and tokenizer.json,
            or a GGUF file.
        text: file, folder, pattern or URL of text to compare the precisions on.
        progress: shows the conversion and the validation losses.

    Raises:
        ArtifactError: the folder or file is no model, or one that cannot be expressed as a graph.
        DataError: the text cannot be read, or is too short.
        RefusedError: the graph differs from torch, or a precision loses too much.
    """
    from training.gguf.file import is_gguf

    if not is_gguf(checkpoint):
        version = _export(home, run, checkpoint, name_of(checkpoint), text, progress)
        _keep(home, version, lambda place: place.symlink_to(checkpoint.resolve(), True))
        return version
    with tempfile.TemporaryDirectory(dir=home.root, prefix="import-") as staging:
        folder = Path(staging) / "checkpoint"
        name = _convert(checkpoint, folder, progress)
        version = _export(home, run, folder, name, text, progress)
        _keep(home, version, lambda place: folder.rename(place))
    return version


def _convert(path: Path, folder: Path, progress: Progress | None) -> str:
    """Write a GGUF file as a checkpoint that says where it comes from; give the model's name."""
    from training.checkpoint import write_sidecar
    from training.gguf.read import convert_gguf, model_licence, model_name

    name = name_of(Path(model_name(path)))
    convert_gguf(path, folder, progress)
    source = {"import.file": path.name, "import.sha256": sha256_file(path)}
    licence = model_licence(path)
    if licence:
        source["import.licence"] = licence
    write_sidecar(folder, datasets=(), config=source, seed=0, parent=None, metrics={})
    return name


def _export(
    home: Home,
    run: RunFile,
    checkpoint: Path,
    name: str,
    text: str | None,
    progress: Progress | None,
) -> ModelVersion:
    """Export and save a folder, under its name where the run gives none."""
    from training.export.architecture import read_architecture
    from training.export.licence import read_licence
    from training.export.special_tokens import read_special_tokens
    from training.export.tokenizer_files import read_chat_template
    from training.export.version import export_checkpoint, name_text
    from training.export.weights import weight_files

    if not checkpoint.is_dir():
        raise ArtifactError(
            f"{checkpoint} is no folder. Name the folder that holds config.json, or a GGUF file."
        )
    weight_files(checkpoint)  # what can be refused is refused before anything is measured
    longest = read_architecture(checkpoint).max_seq_len
    config = run.table("export", ExportConfig)
    windows = comparison_windows(
        home, checkpoint, EXPORT_WINDOWS, place=text, max_context=config.max_model_len
    )
    read_chat_template(checkpoint)
    read_special_tokens(checkpoint)
    length = config.max_model_len or min(longest, DEFAULT_MAX_MODEL_LEN)
    given = run.values.get("export", {})
    found = {"name": name, "licence": read_licence(checkpoint)}
    named = {key: value for key, value in found.items() if value and key not in given}
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
        name_text(folder, windows.name)
        return save_version(home, folder)


def name_of(checkpoint: Path) -> str:
    """A model's name from that of its folder: `SmolLM2 135M/` gives `smollm2-135m`."""
    name = re.sub(r"[^-_.a-z0-9]+", "-", checkpoint.resolve().name.lower()).strip("-_.")
    return name[:63].rstrip("-_.") or "imported"


def _keep(home: Home, version: ModelVersion, put: Callable[[Path], object]) -> None:
    """Put the checkpoint among the runs, where tuning and the loop look for it, if it is new."""
    manifest = version.manifest
    sha256 = manifest.lineage.checkpoint_sha256
    run, other = home.runs / manifest.name, home.runs / f"{manifest.name}-{sha256[:6]}"
    if run.exists() and not _holds(run, sha256):
        run = other
    if not run.exists():
        run.mkdir(parents=True)
        put(run / "checkpoint")


def _holds(run: Path, sha256: str) -> bool:
    """Whether the checkpoint of a run is this one, unharmed."""
    from training.checkpoint import read_checkpoint

    try:
        return read_checkpoint(run / "checkpoint").sha256 == sha256
    except ArtifactError:  # it is gone, or was changed
        return False
