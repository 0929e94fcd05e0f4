from pathlib import Path

import numpy as np
import pytest

from tests.tiny_model import FAMILIES, make_tiny_checkpoint
from training.export.architecture import read_architecture
from training.export.equalization import Equalization, equalize
from training.export.graph import write_graph
from training.export.session import ReferenceRunner, open_session
from training.export.weights import Weights


def write(checkpoint: Path, folder: Path, equalization: Equalization | None = None) -> Path:
    folder.mkdir()
    return write_graph(
        read_architecture(checkpoint),
        Weights.read(checkpoint),
        folder,
        precision="fp32",
        positions=160,
        fitted_to=equalization,
        embeddings=True,
    )


def run(graph: Path, tokens: list[int], output: str) -> np.ndarray:
    return ReferenceRunner(open_session(graph), slots=1, capacity=64).run({0: tokens}, [output])[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_equalized_weights_are_the_same_model(
    tmp_path: Path, windows: np.ndarray, family: str
) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "checkpoint", family=family)
    plain = write(checkpoint, tmp_path / "plain")

    factors = equalize(read_architecture(checkpoint), plain, windows)

    assert any(np.ptp(one) > 0.1 for one in factors.inputs.values())
    equalized = write(checkpoint, tmp_path / "equalized", factors)
    tokens = windows[0, :-1].tolist()
    for output in ("logits", "hidden_states"):
        expected = run(plain, tokens, output)
        np.testing.assert_allclose(
            run(equalized, tokens, output), expected, atol=2e-5 * np.abs(expected).max()
        )


def test_a_loud_channel_is_divided_where_it_is_made(tmp_path: Path, windows: np.ndarray) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "checkpoint")
    architecture = read_architecture(checkpoint)
    factors = equalize(architecture, write(checkpoint, tmp_path / "plain"), windows)

    # An MLP's last product is divided behind the upper half alone: the gate is not linear.
    width = len(factors.inputs["layers.0.mlp.weight"])
    produced = factors.outputs["layers.0.gate_up.weight"]
    assert np.array_equal(produced[:width], np.ones(width))
    assert np.array_equal(produced[width:], factors.inputs["layers.0.mlp.weight"])
    assert "layers.0.attention.output.weight" not in factors.inputs
