"""Weights of a Hugging Face checkpoint, read from safetensors only: nothing here unpickles."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from everloop.errors import ArtifactError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# Tables that old checkpoints carry and every reader computes: rotary frequencies, causal masks.
_BUFFERS = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def weight_files(checkpoint: Path) -> list[Path]:
    """Name the safetensors files of a checkpoint, whole or sharded.

    Raises:
        ArtifactError: there are none, or only pickled weights.
    """
    index = checkpoint / INDEX_FILE
    if index.is_file():
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError) as error:
            raise ArtifactError(f"{index}: not a readable index of weights: {error!r}.") from error
        return [_inside(checkpoint, name) for name in sorted(shards)]
    if (checkpoint / SINGLE_FILE).is_file():
        return [checkpoint / SINGLE_FILE]
    pickles = [path.name for pattern in _PICKLES for path in sorted(checkpoint.glob(pattern))]
    if pickles:
        raise ArtifactError(
            f"{checkpoint}: {pickles[0]} holds pickled weights, which can run code when they are "
            f"read. Save the model as safetensors ({SINGLE_FILE})."
        )
    if (checkpoint / "adapter_config.json").is_file():
        raise ArtifactError(
            f"{checkpoint} holds an adapter without its model. Merge the two and save the result."
        )
    raise ArtifactError(f"{checkpoint} is not a checkpoint: {SINGLE_FILE} is missing.")


class Weights:
    """The tensors of a checkpoint as float32 arrays, each read when the graph builder takes it.

    Holds names and open files only, so that a checkpoint of any size needs the memory of its
    largest tensor.
    """

    def __init__(self, files: Mapping[str, Any], source: str) -> None:
        """Wrap open safetensors files, by the names of their tensors; see `read`."""
        self._files = files
        self._source = source
        self._taken: dict[str, int] = {}  # name -> number of values

    @classmethod
    def read(cls, checkpoint: Path) -> "Weights":
        """Open all files of a checkpoint.

        Raises:
            ArtifactError: there are no safetensors, or a file is damaged.
        """
        files: dict[str, Any] = {}
        for path in weight_files(checkpoint):
            try:
                file = safe_open(path, framework="pt")
                files |= dict.fromkeys(file.keys(), file)
            except (SafetensorError, OSError) as error:
                raise ArtifactError(f"{path}: not a readable safetensors file: {error}.") from error
        return cls(files, str(checkpoint))

    @property
    def parameters(self) -> int:
        """Number of values that the graph took."""
        return sum(self._taken.values())

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Read one tensor; 16-bit weights widen to float32.

        Raises:
            ArtifactError: the checkpoint has no such tensor, one of another shape, or one of
                quantized values.
        """
        stored = self._stored(name)
        if stored is None:
            raise ArtifactError(f"{self._source}: tensor {name} is missing from the weights.")
        tensor: torch.Tensor = self._files[stored].get_tensor(stored)
        if tuple(tensor.shape) != shape:
            raise ArtifactError(
                f"{self._source}: tensor {name} must have shape {shape}, got {tuple(tensor.shape)}."
            )
        if tensor.dtype not in _DTYPES:
            raise ArtifactError(
                f"{self._source}: tensor {name} holds {tensor.dtype} values; supported: "
                f"{', '.join(map(str, _DTYPES))}. Save the model without quantization."
            )
        self._taken[stored] = tensor.numel()
        values: np.ndarray = tensor.to(torch.float32).numpy()
        return values

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds this tensor."""
        return self._stored(name) is not None

    def _stored(self, name: str) -> str | None:
        """The name under which a file holds a tensor, if one does.

        A checkpoint that was saved without its head, as GPT-2's own, leaves out the backbone's
        name: `wte.weight` instead of `transformer.wte.weight`.
        """
        return next((each for each in (name, name.partition(".")[2]) if each in self._files), None)

    def refuse_leftovers(self, *ignored: str) -> None:
        """Refuse a checkpoint with tensors that the graph did not use.

        Raises:
            ArtifactError: a tensor is left over, so the graph would not be the model.
        """
        left = sorted(set(self._files) - set(self._taken) - set(ignored))
        left = [name for name in left if not name.endswith(_BUFFERS)]
        if left:
            raise ArtifactError(
                f"{self._source}: {len(left)} tensors have no place in the graph of this "
                f"architecture, the first is {left[0]}. Merge adapters into the model first."
            )


def _inside(checkpoint: Path, name: str) -> Path:
    path = checkpoint / name
    if Path(name).name != name or path.suffix != ".safetensors":
        raise ArtifactError(
            f"{checkpoint / INDEX_FILE}: expected safetensors files of the same folder, got {name}."
        )
    if not path.is_file():
        raise ArtifactError(f"{path} is missing, though {INDEX_FILE} names it.")
    return path
