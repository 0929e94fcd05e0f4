"""Write a Hugging Face checkpoint as a GGUF file, one tensor at a time.

Norms and biases stay in float32, as llama.cpp's own converter leaves them. With 4 bits, the tables
of tokens get 8: one value of them is a whole token's.
"""

from collections.abc import Mapping
from contextlib import closing
from math import prod
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from rich.progress import Progress
from transformers import PreTrainedConfig

from everloop.errors import ArtifactError
from everloop.progress import meter
from training.export.architecture import Architecture, Attention, read_architecture
from training.export.weights import Weights
from training.gguf.architectures import (
    ARCHITECTURES,
    COUNTS,
    GgufArchitecture,
    heads_of,
    tensor_names,
    to_neighbours,
)
from training.gguf.rope import FACTORS_TENSOR, write_rope
from training.gguf.write_tokenizer import add_tokenizer
from training.pretrained import load_config

GgufType = Literal["f32", "f16", "q8_0", "q4_0"]
_KINDS: Mapping[GgufType, GGMLQuantizationType] = {
    "f32": GGMLQuantizationType.F32,
    "f16": GGMLQuantizationType.F16,
    "q8_0": GGMLQuantizationType.Q8_0,
    "q4_0": GGMLQuantizationType.Q4_0,
}
_FILE_TYPES: Mapping[GgufType, gguf.LlamaFileType] = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
}
_TABLES = ("token_embd.weight", "output.weight")
_BUFFERS = ("lm_head.weight",)  # of a tied model, whose file may hold the table twice
_LARGEST_F16 = float(np.finfo(np.float16).max)


def write_gguf(
    checkpoint: Path,
    target: Path,
    *,
    dtype: GgufType,
    name: str,
    progress: Progress | None = None,
) -> None:
    """Write one file with config, weights, tokenizer and chat template.

    Args:
        checkpoint: Hugging Face folder.
        target: the file, which is made anew.
        dtype: of the matrices.
        name: of the model, as programs show it.
        progress: shows how much is written.

    Raises:
        ArtifactError: the architecture, one of its settings or the tokenizer has no place in GGUF,
            or a weight is out of the range of 16 bits.
    """
    architecture = read_architecture(checkpoint)
    key, known = _find(checkpoint, architecture)
    config = load_config(checkpoint)
    settings, factors = _settings(checkpoint, config, architecture, known)
    names = tensor_names(known, config)
    kinds = {stored: _kind(stored, shape, dtype) for stored, shape in names.values()}
    with closing(GGUFWriter(target, key)) as writer:
        writer.add_type("model")
        writer.add_name(name)
        writer.add_file_type(_FILE_TYPES[dtype])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        for setting, value in settings.items():
            _add(writer, f"{key}.{setting}", value)
        add_tokenizer(writer, checkpoint, architecture.vocab_size)
        _declare(writer, names, kinds, factors)
        if factors is not None:
            writer.write_tensor_data(factors)
        weights = Weights.read(checkpoint)
        show = meter(progress, f"write {dtype}", sum(prod(shape) for _, shape in names.values()))
        for each, (stored, shape) in names.items():
            tensor = weights.take(each, shape)
            heads = heads_of(stored, config) if known.is_permuted else None
            if heads is not None:
                tensor = to_neighbours(tensor, heads)
            writer.write_tensor_data(_stored(checkpoint, each, tensor, kinds[stored]))
            show(tensor.size)
        weights.refuse_leftovers(*_BUFFERS)


def _find(checkpoint: Path, architecture: Architecture) -> tuple[str, GgufArchitecture]:
    wanted = architecture.family.architecture
    for key, known in ARCHITECTURES.items():
        if wanted in known.architectures:
            return key, known
    supported = [name for known in ARCHITECTURES.values() for name in known.architectures]
    raise ArtifactError(
        f"{checkpoint}: {wanted} cannot be written as GGUF; supported: {', '.join(supported)}."
    )


def _settings(
    checkpoint: Path,
    config: PreTrainedConfig,
    architecture: Architecture,
    known: GgufArchitecture,
) -> tuple[dict[str, int | float | str], np.ndarray | None]:
    """The keys of the architecture, without its prefix, and the rotary factors if it has any."""
    path = checkpoint / "config.json"
    body = architecture.body
    if not isinstance(body, Attention) or body.activation != "silu":
        raise ArtifactError(f"{path}: llama.cpp knows this architecture with silu alone.")
    if getattr(config, "mlp_bias", False):
        raise ArtifactError(f"{path}: mlp_bias True cannot be written as GGUF.")
    if known.no_rope_interval is not None:
        every = known.no_rope_interval
        layers = [bool((layer + 1) % every) for layer in range(architecture.n_layer)]
        if [layer.rotary is not None for layer in body.layers] != layers:
            raise ArtifactError(
                f"{path}: llama.cpp leaves every {every}th layer without rotary positions; these "
                "no_rope_layers cannot be written as GGUF."
            )
    head_dim = getattr(config, "head_dim", None) or architecture.n_embd // body.n_head
    config.head_dim = head_dim
    counts = {key: int(getattr(config, name)) for key, name in COUNTS.items()}
    # Within the shortest window every token sees all before it; llama.cpp knows no windows here.
    windows = [layer.window for layer in body.layers if layer.window is not None]
    counts["context_length"] = min([counts["context_length"], *windows])
    numbers = {key: float(getattr(config, name)) for key, name in known.numbers.items()}
    rope, factors = write_rope(str(path), config.rope_parameters, head_dim)
    more = {
        "attention.value_length": head_dim,
        "rope.dimension_count": head_dim,
        "vocab_size": architecture.vocab_size,
    }
    return counts | more | numbers | rope, factors


def _add(writer: GGUFWriter, key: str, value: int | float | str) -> None:
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    else:
        writer.add_float32(key, value)


def _kind(name: str, shape: tuple[int, ...], dtype: GgufType) -> GGMLQuantizationType:
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    kind = _KINDS[dtype]
    if kind == GGMLQuantizationType.Q4_0 and name in _TABLES:
        kind = GGMLQuantizationType.Q8_0
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return GGMLQuantizationType.F16 if shape[-1] % block else kind


def _declare(
    writer: GGUFWriter,
    names: Mapping[str, tuple[str, tuple[int, ...]]],
    kinds: Mapping[str, GGMLQuantizationType],
    factors: np.ndarray | None,
) -> None:
    """Write everything that stands before the tensors."""
    if factors is not None:
        writer.add_tensor_info(FACTORS_TENSOR, factors.shape, factors.dtype, factors.nbytes)
    for stored, shape in names.values():
        kind = kinds[stored]
        bytes_shape = gguf.quant_shape_to_byte_shape(shape, kind)
        size = int(np.prod(bytes_shape))
        writer.add_tensor_info(stored, bytes_shape, np.dtype(np.uint8), size, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


def _stored(
    checkpoint: Path, name: str, tensor: np.ndarray, kind: GGMLQuantizationType
) -> np.ndarray:
    values = np.ascontiguousarray(tensor)
    if kind == GGMLQuantizationType.F32:
        return values
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= _LARGEST_F16:
        raise ArtifactError(
            f"{checkpoint}: tensor {name} holds {largest:.3g}, which 16 bits cannot express. "
            "Export with --dtype f32."
        )
    return gguf.quants.quantize(values, kind)
