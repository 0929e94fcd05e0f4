"""A checkpoint in another type as a Hugging Face folder, for programs other than Everloop."""

import json
import shutil
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.progress import Progress
from safetensors import safe_open

from everloop.chat import FILE_NAME as CHAT_TEMPLATE_FILE
from everloop.errors import ArtifactError
from everloop.progress import meter
from training.export.architecture import read_architecture
from training.export.tokenizer_files import CONFIG_FILE, TOKENIZER_FILE
from training.export.weights import SINGLE_FILE, weight_files
from training.safetensors_writer import SIZE_BYTES, FloatName, write_safetensors

FolderType = Literal["f32", "f16"]
_STORED: dict[FolderType, tuple[FloatName, torch.dtype]] = {
    "f32": ("F32", torch.float32),
    "f16": ("F16", torch.float16),
}
_COPIED = (
    TOKENIZER_FILE,
    CONFIG_FILE,
    CHAT_TEMPLATE_FILE,
    "generation_config.json",
    "special_tokens_map.json",
)


def write_folder(
    checkpoint: Path, folder: Path, *, dtype: FolderType, progress: Progress | None = None
) -> None:
    """Write config, weights in one file, tokenizer and chat template.

    Args:
        checkpoint: Hugging Face folder.
        folder: exists and is empty.
        dtype: of the weights.
        progress: shows how much is written.

    Raises:
        ArtifactError: transformers does not know the architecture, or a weight is quantized or out
            of the range of 16 bits.
    """
    family = read_architecture(checkpoint).family
    if family.recurrent is not None:
        raise ArtifactError(
            f"{checkpoint}: {family.architecture} is an architecture of Everloop's own, which no "
            "other program loads."
        )
    stored, torch_dtype = _STORED[dtype]
    files = [(path, safe_open(path, framework="pt")) for path in weight_files(checkpoint)]
    holders = {name: file for _, file in files for name in file.keys()}  # noqa: SIM118
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name, file in holders.items()}
    total = sum(SIZE_BYTES[stored] * prod(shape) for shape in shapes.values())
    show = meter(progress, f"write {dtype}", total)

    def read(name: str) -> np.ndarray:
        values = _converted(checkpoint, name, holders[name].get_tensor(name), torch_dtype)
        show(values.nbytes)
        return values

    tensors = {name: (stored, shape) for name, shape in shapes.items()}
    write_safetensors(folder / SINGLE_FILE, tensors, read)
    _write_config(checkpoint, folder, str(torch_dtype).removeprefix("torch."))
    for name in _COPIED:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, folder / name)


def _converted(checkpoint: Path, name: str, tensor: torch.Tensor, dtype: torch.dtype) -> np.ndarray:
    if not tensor.is_floating_point():
        raise ArtifactError(
            f"{checkpoint}: tensor {name} holds {tensor.dtype} values, which are no weights of a "
            "model without quantization."
        )
    values = tensor.to(dtype)
    if not bool(torch.isfinite(values).all()):
        raise ArtifactError(
            f"{checkpoint}: tensor {name} holds values that {dtype} cannot express. Export with "
            "--dtype f32."
        )
    converted: np.ndarray = values.numpy()
    return converted


def _write_config(checkpoint: Path, folder: Path, dtype: str) -> None:
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)  # the key's name before transformers 5
    (folder / "config.json").write_text(json.dumps(config | {"dtype": dtype}, indent=1), "utf-8")
