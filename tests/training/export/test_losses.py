from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from rich.progress import Progress
from transformers import AutoModelForCausalLM

from everloop.errors import ArtifactError, DataError
from training.export import losses
from training.export.losses import session_losses, window_losses


def torch_losses(checkpoint: Path, windows: np.ndarray) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="eager").eval()
    batch = torch.tensor(windows)
    with torch.no_grad():
        logits = model(batch[:, :-1]).logits
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none")
    return each.mean(dim=1).numpy()


def test_window_losses_equal_torch(
    tiny_checkpoint: Path, tiny_version: Path, windows: np.ndarray
) -> None:
    measured = window_losses(tiny_version, windows.astype(np.uint16))

    assert measured.dtype == np.float64
    np.testing.assert_allclose(measured, torch_losses(tiny_checkpoint, windows), atol=1e-5)


@pytest.mark.parametrize("max_tokens", [7, 40, 90, 10_000])
def test_session_losses_do_not_depend_on_the_batch(
    tiny_session: ort.InferenceSession,
    windows: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    max_tokens: int,
) -> None:
    expected = session_losses(tiny_session, windows)
    monkeypatch.setattr(losses, "_MAX_TOKENS", max_tokens)

    np.testing.assert_allclose(session_losses(tiny_session, windows), expected, atol=1e-6)


def test_session_losses_of_int8_are_close(
    tiny_checkpoint: Path,
    tiny_session: ort.InferenceSession,
    build: Callable[..., ort.InferenceSession],
    windows: np.ndarray,
) -> None:
    fp32 = session_losses(tiny_session, windows).mean()
    int8 = session_losses(build(tiny_checkpoint, "int8"), windows).mean()

    assert int8 != fp32
    assert int8 == pytest.approx(fp32, rel=0.01)


def test_window_losses_show_their_progress(tiny_version: Path, windows: np.ndarray) -> None:
    progress = Progress(disable=True)

    window_losses(tiny_version, windows, progress=progress)

    (task,) = progress.tasks
    assert (task.completed, task.total) == (6, 6)


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        (np.zeros((0, 9), np.int64), r"shape \[N, context \+ 1\], got \(0, 9\)"),
        (np.zeros((3, 1), np.int64), r"got \(3, 1\)"),
        (np.zeros(9, np.int64), r"got \(9,\)"),
        (np.zeros((1, 130), np.int64), "hold 129 tokens, the model takes 128"),
        (np.full((1, 9), 259), "token ids 259 to 259, the vocabulary ends at 258"),
        (np.full((1, 9), -1), "token ids -1 to -1"),
    ],
)
def test_window_losses_refuse_windows_that_do_not_fit(
    tiny_version: Path, windows: np.ndarray, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        window_losses(tiny_version, windows)


def test_window_losses_refuse_a_folder_without_manifest(
    tmp_path: Path, windows: np.ndarray
) -> None:
    with pytest.raises(ArtifactError, match="is not a model version"):
        window_losses(tmp_path, windows)
