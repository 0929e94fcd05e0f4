"""Loss of an exported graph over windows of tokens: the number that exports and gates compare."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
from rich.progress import Progress

from everloop.errors import DataError
from everloop.manifest import read_manifest
from training.export.graph import MODEL_FILE
from training.export.session import ReferenceRunner, open_session

# One run holds logits for every token of it: bound both, so that memory stays small at any size.
_MAX_LOGITS = 16 * 2**20  # values, 64 MiB
_MAX_TOKENS = 2048
_CHUNK_VALUES = 1 << 18  # worked on at once: 1 MiB stays in a processor's cache


def window_losses(
    version: Path,
    windows: np.ndarray,
    *,
    num_threads: int | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Measure a model version on windows; the same windows on two versions give paired losses.

    Args:
        version: model version folder; its hashes are the caller's to check.
        windows: token ids [N, context + 1]; each window predicts its last `context` tokens.
        num_threads: of onnxruntime, None = one per core.
        progress: shows the windows done.

    Returns:
        Mean loss of each window in nats per token, float64 [N].

    Raises:
        ArtifactError: the folder is no model version.
        DataError: the windows do not fit the model.
    """
    manifest = read_manifest(version)
    check_windows(windows, manifest.max_model_len, manifest.vocab_size)
    session = open_session(version / MODEL_FILE, num_threads)
    return session_losses(session, windows, progress=progress, label=f"Loss of {manifest.tag}")


def check_windows(windows: np.ndarray, max_model_len: int, vocab_size: int) -> None:
    """Refuse windows that a model cannot take.

    Raises:
        DataError: no window, no token to predict, too long, or an id outside the vocabulary.
    """
    if windows.ndim != 2 or windows.shape[0] < 1 or windows.shape[1] < 2:
        raise DataError(
            f"validation windows must have the shape [N, context + 1], got {windows.shape}. "
            "Give the model more validation text."
        )
    if windows.shape[1] - 1 > max_model_len:
        raise DataError(
            f"validation windows hold {windows.shape[1] - 1:,} tokens, the model takes "
            f"{max_model_len:,} (max_model_len). Cut shorter windows."
        )
    lowest, highest = int(windows.min()), int(windows.max())
    if lowest < 0 or highest >= vocab_size:
        raise DataError(
            f"validation windows hold token ids {lowest} to {highest}, the vocabulary ends at "
            f"{vocab_size - 1}. Tokenize them with the model's own tokenizer."
        )


def session_losses(
    session: ort.InferenceSession,
    windows: np.ndarray,
    *,
    progress: Progress | None = None,
    label: str = "Loss",
) -> np.ndarray:
    """Measure an open graph on checked windows [N, context + 1]; float64 [N], nats per token."""
    count, context = windows.shape[0], windows.shape[1] - 1
    vocab_size = session.get_outputs()[0].shape[1]
    tokens = max(1, min(_MAX_TOKENS, _MAX_LOGITS // vocab_size))
    rows = min(count, max(1, tokens // context))
    chunk = min(context, max(1, tokens // rows))
    runner = ReferenceRunner(session, slots=rows, capacity=context)
    losses = np.zeros(count, np.float64)
    task = progress.add_task(label, total=count) if progress else None
    for start in range(0, count, rows):
        batch = windows[start : start + rows].astype(np.int64)
        runner.lengths[:] = 0
        for column in range(0, context, chunk):
            inputs = batch[:, column : min(column + chunk, context)]
            logits = runner.step(dict(enumerate(inputs)))
            for row, values in logits.items():
                targets = batch[row, column + 1 : column + 1 + len(values)]
                losses[start + row] += negative_log_likelihood(values, targets)
        if progress is not None and task is not None:
            progress.advance(task, len(batch))
    return losses / context


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> float:
    """Sum over positions in nats; overwrites the logits [k, V]."""
    total = 0.0
    size = max(1, _CHUNK_VALUES // logits.shape[1])
    for start in range(0, len(targets), size):
        part, wanted = logits[start : start + size], targets[start : start + size]
        part -= part.max(axis=-1, keepdims=True)
        chosen = part[np.arange(len(wanted)), wanted].astype(np.float64)
        normalizers = np.log(np.exp(part, out=part).sum(axis=-1, dtype=np.float64))
        total += float((normalizers - chosen).sum())
    return total
