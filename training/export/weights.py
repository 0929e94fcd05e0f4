"""Weights of a Hugging Face checkpoint, read from safetensors only: nothing here unpickles."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from everloop.errors import ArtifactError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
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
    raise ArtifactError(f"{checkpoint} is not a checkpoint: {SINGLE_FILE} is missing.")


class Weights:
    """The tensors of a checkpoint as float32 arrays, each taken out once by the graph builder."""

    def __init__(self, tensors: dict[str, np.ndarray], source: str) -> None:
        self._tensors = tensors
        self._source = source
        self._taken: set[str] = set()

    @classmethod
    def read(cls, checkpoint: Path) -> "Weights":
        """Read all tensors; 16-bit weights widen to float32.

        Raises:
            ArtifactError: there are no safetensors, or a file is damaged.
        """
        tensors: dict[str, np.ndarray] = {}
        for path in weight_files(checkpoint):
            try:
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 - the file is no mapping
                        tensors[name] = file.get_tensor(name).to(torch.float32).numpy()
            except (SafetensorError, OSError) as error:
                raise ArtifactError(f"{path}: not a readable safetensors file: {error}.") from error
        return cls(tensors, str(checkpoint))

    @property
    def parameters(self) -> int:
        """Number of values that the graph took."""
        return sum(self._tensors[name].size for name in self._taken)

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Give one tensor.

        Raises:
            ArtifactError: the checkpoint has no such tensor, or one of another shape.
        """
        if name not in self._tensors:
            raise ArtifactError(f"{self._source}: tensor {name} is missing from the weights.")
        found = self._tensors[name]
        if found.shape != shape:
            raise ArtifactError(
                f"{self._source}: tensor {name} must have shape {shape}, got {found.shape}."
            )
        self._taken.add(name)
        return found

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds this tensor."""
        return name in self._tensors

    def refuse_leftovers(self, *ignored: str) -> None:
        """Refuse a checkpoint with tensors that the graph did not use.

        Raises:
            ArtifactError: a tensor is left over, so the graph would not be the model.
        """
        left = sorted(set(self._tensors) - self._taken - set(ignored))
        left = [name for name in left if not name.endswith("rotary_emb.inv_freq")]
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
