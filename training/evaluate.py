"""How good a checkpoint is: loss over held-out windows.

Loss is nats per token; bits per byte makes models with different vocabularies comparable.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from everloop.errors import DataError
from training.checkpoint import read_checkpoint


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The quality of a checkpoint over held-out windows."""

    val_loss: float  # nats per token
    val_bpb: float  # bits per byte of UTF-8
    tokens: int

    @property
    def perplexity(self) -> float:
        """The number of tokens among which the model is undecided on average."""
        return math.exp(self.val_loss)


def evaluate_checkpoint(
    checkpoint: Path, windows: npt.NDArray[np.generic], *, bytes_per_token: float
) -> Evaluation:
    """Measure a checkpoint over windows.

    Args:
        checkpoint: its folder.
        windows: token ids, [N, T + 1], as `TokenShard.windows` gives them.
        bytes_per_token: of the text that the windows come from, with this tokenizer.

    Raises:
        ArtifactError: the checkpoint was changed.
        DataError: there are no windows.
    """
    losses = checkpoint_losses(checkpoint, windows)
    val_loss = float(losses.mean())
    return Evaluation(
        val_loss=val_loss,
        val_bpb=val_loss / math.log(2) / bytes_per_token,
        tokens=int(losses.size * (windows.shape[1] - 1)),
    )


def checkpoint_losses(
    checkpoint: Path, windows: npt.NDArray[np.generic], *, batch_size: int = 16
) -> npt.NDArray[np.float64]:
    """Mean loss of each window in fp32, [N]: the numbers for a paired test between checkpoints.

    Raises:
        ArtifactError: the checkpoint was changed.
        DataError: there are no windows.
    """
    # Imported here: a caller that only scores answers needs no torch.
    import torch
    from transformers import AutoModelForCausalLM

    from training.cpu import training_session

    if not len(windows):
        raise DataError("there is no validation window: the split is shorter than the context.")
    read_checkpoint(checkpoint)
    losses: list[npt.NDArray[np.float64]] = []
    with training_session(None), torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint, local_files_only=True, dtype="float32"
        ).eval()
        for start in range(0, len(windows), batch_size):
            batch = torch.from_numpy(windows[start : start + batch_size].astype(np.int64))
            logits = model(input_ids=batch[:, :-1]).logits  # (B, T, V)
            each = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), batch[:, 1:], reduction="none"
            )  # (B, T)
            losses.append(each.mean(dim=1).double().numpy())
    return np.concatenate(losses)
