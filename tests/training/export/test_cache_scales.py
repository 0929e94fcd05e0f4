from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from safetensors.torch import load_file, save_file

from tests.tiny_model import make_tiny_checkpoint
from training.export.cache_scales import calibrate_cache
from training.export.session import ReferenceRunner

NAMES = [f"past_key_values.{layer}.{part}" for layer in (0, 1) for part in ("key", "value")]


def test_calibrate_cache_reaches_beyond_the_largest_magnitude_of_each_channel(
    tiny_session: ort.InferenceSession, windows: np.ndarray
) -> None:
    scales = calibrate_cache(tiny_session, windows)
    runner = ReferenceRunner(tiny_session, slots=6, capacity=40)
    runner.step({row: window[:-1].tolist() for row, window in enumerate(windows)})

    assert list(scales) == NAMES
    for name in NAMES:
        assert scales[name].dtype == np.float32
        assert scales[name].shape == (1, 2, 1, 32)
        largest = np.abs(runner.state[name]).max(axis=(0, 2), keepdims=True)
        np.testing.assert_allclose(scales[name] * 127, 1.3 * largest, rtol=1e-4)


def test_calibrate_cache_gives_a_silent_channel_a_small_scale(
    build: Callable[..., ort.InferenceSession], windows: np.ndarray, tmp_path: Path
) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path)
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["model.layers.1.self_attn.v_proj.weight"][5] = 0
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})

    scales = calibrate_cache(build(checkpoint), windows)["past_key_values.1.value"]

    assert scales[0, 0, 0, 5] == scales.max() / 64
    assert (scales >= scales.max() / 64).all()


def test_calibrate_cache_in_chunks_gives_the_same(
    tiny_session: ort.InferenceSession, windows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = calibrate_cache(tiny_session, windows)
    monkeypatch.setattr("training.export.cache_scales._MAX_TOKENS", 7)

    chunked = calibrate_cache(tiny_session, windows)

    for name in NAMES:
        np.testing.assert_allclose(chunked[name], whole[name], rtol=1e-4)
