"""A model version's checkpoint leaves the home as a Hugging Face folder or a GGUF file.

What is written are the weights that the version was exported from, never its quantized ones.
"""

import tempfile
from pathlib import Path
from typing import Literal, cast, get_args

from rich.progress import Progress

from everloop.errors import ArtifactError, ConfigError
from everloop.lifecycle import checkpoint_of
from everloop.registry import Registry
from everloop.settings import Home

ExportFormat = Literal["gguf", "hf"]
ExportType = Literal["f32", "f16", "q8_0", "q4_0"]


def export_model(
    home: Home,
    tag: str,
    target: Path,
    *,
    form: ExportFormat,
    dtype: ExportType,
    progress: Progress | None = None,
) -> Path:
    """Write a version's checkpoint for other programs, under a partial name until it is whole.

    Args:
        home: has the version and its checkpoint.
        tag: `name:version`, or a name for its newest.
        target: the file (gguf) or folder (hf); its parent exists.
        form: what to write.
        dtype: of the matrices; a folder takes f32 and f16.
        progress: shows how much is written.

    Raises:
        ArtifactError: the target exists, the checkpoint is gone, or it has no place in the format.
        ConfigError: the type is not one of the format.
        NotFoundError: there is no such version.
    """
    from training.export.folder import FolderType, write_folder
    from training.gguf.write import write_gguf

    if form == "hf" and dtype not in get_args(FolderType):
        raise ConfigError(
            f"--dtype {dtype} is of GGUF files; a Hugging Face folder takes "
            f"{' and '.join(get_args(FolderType))}."
        )
    if target.exists():
        raise ArtifactError(f"{target} already exists. Remove it or name another place.")
    if not target.absolute().parent.is_dir():
        raise ArtifactError(f"{target.parent} is no folder, so {target.name} cannot be written.")
    version = Registry(home).get(tag)
    checkpoint = checkpoint_of(home, version).path
    with tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=".partial-") as staging:
        partial = Path(staging) / target.name
        if form == "gguf":
            write_gguf(
                checkpoint, partial, dtype=dtype, name=version.manifest.name, progress=progress
            )
        else:
            partial.mkdir()
            write_folder(checkpoint, partial, dtype=cast(FolderType, dtype), progress=progress)
        partial.rename(target)
    return target
