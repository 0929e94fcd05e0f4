"""Turn a GGUF file into a Hugging Face folder, one tensor at a time.

Quantized tensors become float32; tensors of 16 bits stay as they are.
"""

import json
import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType
from rich.progress import Progress
from transformers import PreTrainedConfig

from everloop.errors import ArtifactError
from everloop.progress import meter
from training.export.weights import SINGLE_FILE
from training.gguf.architectures import (
    GgufArchitecture,
    architecture_of,
    heads_of,
    read_config,
    tensor_names,
    to_halves,
)
from training.gguf.file import PLAIN_DTYPES, GgufFile
from training.gguf.read_tokenizer import special_token_ids, write_tokenizer_files
from training.gguf.rope import FACTORS_TENSOR
from training.pretrained import load_config
from training.safetensors_writer import SIZE_BYTES, FloatName, write_safetensors

# Types as llama-quantize and its users write them, and the number of a part.
_SUFFIX = re.compile(
    r"(^|[-._])(((UD|i1)-)?(I?Q\d|TQ\d|MXFP4|F(P)?(16|32)|BF16)(_[A-Z0-9]+)*|\d{5}-of-\d{5})$",
    re.IGNORECASE,
)
_EMPTY = re.compile(
    r"(ggml[-._]?)?(model|weights|checkpoint|gguf|ggml)|(sha256[-:])?[0-9a-f]{32,}", re.IGNORECASE
)
_NAMES: Mapping[GGMLQuantizationType, FloatName] = {
    GGMLQuantizationType.F16: "F16",
    GGMLQuantizationType.BF16: "BF16",
}
_TORCH_NAMES: Mapping[FloatName, str] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def convert_gguf(path: Path, folder: Path, progress: Progress | None = None) -> None:
    """Write config.json, model.safetensors, the tokenizer's files and the chat template.

    Args:
        path: the GGUF file.
        folder: made if absent.
        progress: shows how much is converted.

    Raises:
        ArtifactError: the file is damaged, or something that it holds is not supported.
    """
    file = GgufFile.read(path)
    known = architecture_of(file)
    values = read_config(file)
    special = special_token_ids(file)
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer_files(file, folder)
    values["dtype"] = _TORCH_NAMES[_float_name(file, "token_embd.weight")]
    _write_json(folder / "config.json", values | special)
    _write_json(folder / "generation_config.json", special)
    config = load_config(folder)
    names = tensor_names(known, config)
    _check_tensors(file, names)
    _write_weights(file, known, config, names, folder / SINGLE_FILE, progress)


def model_name(path: Path) -> str:
    """A file's own name without its type and part, which is what people call the model.

    Where that says nothing ("model-q4_0.gguf", a blob's hash), what the file calls itself.

    Raises:
        ArtifactError: the file cannot be read.
    """
    stem = path.stem
    while (shorter := _SUFFIX.sub("", stem)) != stem:
        stem = shorter
    if stem and not _EMPTY.fullmatch(stem):
        return stem
    named = GgufFile.read(path).metadata.get("general.name")
    return str(named).strip() if named and str(named).strip() else path.stem


def model_licence(path: Path) -> str | None:
    """The licence that a file names; None where it names none."""
    named = GgufFile.read(path).metadata.get("general.license")
    return str(named).strip() or None if named else None


def _check_tensors(file: GgufFile, names: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    for name, shape in names.values():
        if name not in file.tensors:
            raise ArtifactError(f"{file.path}: tensor {name} is missing.")
        if file.tensors[name].shape != shape:
            raise ArtifactError(
                f"{file.path}: tensor {name} must have shape {shape}, got "
                f"{file.tensors[name].shape}."
            )
    used = {name for name, _ in names.values()} | {FACTORS_TENSOR}
    left = [name for name in file.tensors if name not in used]
    if left:
        raise ArtifactError(
            f"{file.path}: {len(left)} tensors have no place in this architecture, the first is "
            f"{left[0]}."
        )


def _write_weights(
    file: GgufFile,
    known: GgufArchitecture,
    config: PreTrainedConfig,
    names: Mapping[str, tuple[str, tuple[int, ...]]],
    target: Path,
    progress: Progress | None,
) -> None:
    tensors = {name: (_float_name(file, stored), shape) for name, (stored, shape) in names.items()}
    sizes = {name: SIZE_BYTES[dtype] * prod(shape) for name, (dtype, shape) in tensors.items()}
    show = meter(progress, "convert the GGUF file", sum(sizes.values()))

    def read(name: str) -> np.ndarray:
        stored, _ = names[name]
        is_plain = file.tensors[stored].kind in PLAIN_DTYPES
        values = file.plain(stored) if is_plain else file.values(stored)
        heads = heads_of(stored, config) if known.is_permuted else None
        show(sizes[name])
        return values if heads is None else to_halves(values, heads)

    write_safetensors(target, tensors, read)


def _float_name(file: GgufFile, name: str) -> FloatName:
    return _NAMES.get(file.tensors[name].kind, "F32")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
