from pathlib import Path

import numpy as np
import pytest

from tests.tiny_model import VOCAB_SIZE
from training.export import comparison
from training.export.architecture import read_architecture
from training.export.comparison import ComparedGraph, ExactGraph, affordable_windows
from training.export.divergence import Reference
from training.export.graph import write_graph
from training.export.losses import session_losses
from training.export.session import ReferenceRunner, open_session
from training.export.weights import Weights

POSITIONS = 160


@pytest.fixture(scope="module")
def graphs(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        precision: write_graph(
            read_architecture(tiny_checkpoint),
            Weights.read(tiny_checkpoint),
            tmp_path_factory.mktemp(precision),
            precision=precision,
            positions=POSITIONS,
        )
        for precision in ("fp32", "int4")
    }


def logits(graph: Path, window: np.ndarray) -> np.ndarray:
    runner = ReferenceRunner(open_session(graph), slots=1, capacity=len(window))
    return runner.step({0: window[:-1].tolist()})[0]


@pytest.mark.parametrize("max_logits", [16 << 20, 7 * VOCAB_SIZE])
def test_figures_are_those_of_the_definitions_in_pieces_too(
    graphs: dict[str, Path],
    windows: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    max_logits: int,
) -> None:
    monkeypatch.setattr(comparison, "_MAX_LOGITS", max_logits)
    exact = ExactGraph(graphs["fp32"], windows, tmp_path, None)
    compared = ComparedGraph(graphs["int4"], exact)
    ticks: list[int] = []
    for count in (2, 4):
        exact.read(count, ticks.append)
        compared.read(count, ticks.append)

    assert sum(ticks) == 8
    for graph, losses in ((graphs["fp32"], exact.losses), (graphs["int4"], compared.losses)):
        expected = session_losses(open_session(graph), windows[:4])
        np.testing.assert_allclose(losses, expected, rtol=1e-5)
    pairs = [(logits(graphs["fp32"], one), logits(graphs["int4"], one)) for one in windows[:4]]
    divergences = np.array([Reference.of(ours).divergence(other) for ours, other in pairs])
    np.testing.assert_allclose(compared.divergences, divergences, rtol=1e-2, atol=1e-5)
    report = compared.report()
    assert report.tokens == 4 * 40
    assert report.mean_kl == pytest.approx(divergences.mean(), rel=1e-3)
    assert report.p99_kl == pytest.approx(np.percentile(divergences, 99), rel=1e-3)
    agreements = [ours.argmax(-1) == other.argmax(-1) for ours, other in pairs]
    assert report.top_1_agreement == pytest.approx(np.mean(agreements), abs=0.01)
    assert report.equal_answers is None


def test_a_graph_that_is_compared_with_itself_is_no_distance_away(
    graphs: dict[str, Path], windows: np.ndarray, tmp_path: Path
) -> None:
    exact = ExactGraph(graphs["fp32"], windows, tmp_path, None)
    compared = ComparedGraph(graphs["fp32"], exact)
    for graph in (exact, compared):
        graph.read(2, lambda _: None)

    report = compared.report()
    assert report.mean_kl == pytest.approx(0, abs=1e-9)
    assert report.top_1_agreement == 1


def test_windows_whose_logits_would_fill_the_disk_are_left_out() -> None:
    assert affordable_windows(64, 256, 49_152) == 64
    assert affordable_windows(64, 256, 262_144) == 16
    assert affordable_windows(3, 2**16, 262_144) == 1
