import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from everloop.errors import RefusedError
from tests.tiny_model import make_tiny_checkpoint
from training.export.architecture import read_architecture
from training.export.config import ExportConfig
from training.export.golden import greedy
from training.export.gptq import Moments
from training.export.graph_export import GraphExport, ProvenGraph, split_windows
from training.export.input_moments import InputMoments
from training.export.losses import session_losses
from training.export.precision import choose
from training.export.quantize import BlockFormat, QuantizedMatrix, quantize
from training.export.sequential import spread
from training.export.session import ReferenceRunner, open_session
from training.export.speed import Speed

LIFTED = {
    "max_query_len": 32,
    "max_kl": 100.0,
    "min_top_1_agreement": 0.0,
    "max_int8_loss_increase": 1.0,
    "max_int4_loss_increase": 1.0,
    "max_int8_cache_loss_increase": 1.0,
}
Run = Callable[..., ProvenGraph]


@pytest.fixture
def run(tiny_checkpoint: Path, windows: np.ndarray, tmp_path: Path) -> Run:
    """Export the tiny checkpoint with these settings into tmp_path / version."""

    def run(
        windows: np.ndarray = windows,
        checkpoint: Path = tiny_checkpoint,
        least: int = 0,
        **settings: object,
    ) -> ProvenGraph:
        for name in ("version", "scratch"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
            (tmp_path / name).mkdir()
        export = GraphExport(
            checkpoint=checkpoint,
            architecture=read_architecture(checkpoint),
            config=ExportConfig(**(LIFTED | settings)),
            max_model_len=128,
            windows=windows,
            calibration=windows,
            bytes_per_token=2.0,
            least_windows=least,
        )
        return export.run(tmp_path / "version", tmp_path / "scratch")

    return run


@pytest.mark.parametrize(
    ("settings", "measured"),
    [
        ({"precision": "fp32"}, [("fp32", None, "fp32")]),
        ({"precision": "int8"}, [("int8", 32, "fp32"), ("int8", 32, "int8")]),
        ({"precision": "int4", "cache": "int8"}, [("int4", 32, "int8")]),
        ({"precision": "fp32", "cache": "int8"}, [("fp32", None, "int8")]),
    ],
)
def test_run_measures_what_is_wanted_and_keeps_the_last(
    run: Run,
    tmp_path: Path,
    windows: np.ndarray,
    settings: dict[str, str],
    measured: list[tuple[str, int | None, str]],
) -> None:
    proven = run(**settings)

    reports = proven.report.precisions
    assert [(one.weights, one.block_size, one.cache) for one in reports] == measured
    assert proven.precision == reports[-1]
    assert sorted(path.name for path in (tmp_path / "version").iterdir()) == [
        "model.onnx", "model.onnx.data",
    ]  # fmt: skip
    session = open_session(tmp_path / "version" / "model.onnx")
    assert session_losses(session, windows).mean() == pytest.approx(
        proven.report.val_loss, abs=1e-6
    )
    kinds = {tensor.type for tensor in session.get_inputs() if tensor.name.startswith("past")}
    assert kinds == {"tensor(int8)" if measured[-1][2] == "int8" else "tensor(float)"}


def test_run_reports_the_changes_of_weights_and_cache_apart(run: Run) -> None:
    plain, quantized = run(precision="int8").report.precisions
    fp32 = run(precision="fp32").report.val_loss

    assert plain.weight_loss_increase == pytest.approx(plain.val_loss / fp32 - 1)
    assert quantized.weight_loss_increase == plain.weight_loss_increase
    assert plain.cache_loss_increase == 0
    change = quantized.val_loss / plain.val_loss - 1
    assert quantized.cache_loss_increase == pytest.approx(change)
    assert quantized.val_loss != plain.val_loss
    # Two layers of keys and values, two heads, 32 channels.
    assert (plain.cache_bytes_per_token, quantized.cache_bytes_per_token) == (1024, 256)


@pytest.fixture
def own_windows(tiny_session: ort.InferenceSession) -> np.ndarray:
    """What the model itself would say: anything that harms it raises the loss on them."""
    runner = ReferenceRunner(tiny_session, slots=1, capacity=64)
    starts = [[5, 40 + row, 90] for row in range(6)]
    return np.array(
        [[*start, *greedy(runner, start, 38).argmax(axis=-1).tolist()] for start in starts]
    )


@pytest.fixture
def broken_int4(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices of 4 bits whose rows have changed places."""

    def quantize_wrongly(
        matrix: np.ndarray, moments: Moments, block_format: BlockFormat
    ) -> QuantizedMatrix:
        return quantize(np.roll(matrix, 1, axis=0), block_format)

    monkeypatch.setattr("training.export.nodes.quantize_by_moments", quantize_wrongly)


@pytest.mark.usefixtures("broken_int4")
def test_run_refuses_weights_that_lose_too_much_with_the_numbers(
    run: Run, own_windows: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(
        RefusedError,
        match=r"int4 block 32 raises the validation loss from \d\.\d{4} to \d\.\d{4} nats per "
        r"token \(\+\S+%\), the limit is \+2\.00% \(export\.max_int4_loss_increase\)\. Export",
    ):
        run(own_windows, precision="int4", max_int4_loss_increase=0.02)
    assert list((tmp_path / "version").iterdir()) == []


def test_run_keeps_an_fp32_cache_where_int8_loses_too_much(
    run: Run, own_windows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.export.cache_scales._STEPS", 1)  # nothing but -1, 0 and 1
    limit = {"max_int8_cache_loss_increase": 0.001}

    proven = run(own_windows, precision="int8", **limit)

    assert (proven.precision.weights, proven.precision.cache) == ("int8", "fp32")
    plain, quantized = proven.report.precisions
    assert plain.refusal is None
    assert quantized.cache_loss_increase > 0.001
    assert "an int8 cache beside int8 block 32 raises" in str(quantized.refusal)
    with pytest.raises(RefusedError, match=r"limit is \+0\.10% .*max_int8_cache_loss_increase"):
        run(own_windows, precision="int8", cache="int8", **limit)


@pytest.mark.usefixtures("broken_int4")
def test_run_of_auto_keeps_what_its_rule_says_of_what_it_measured(
    run: Run, own_windows: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.export.speed._ROUNDS", 1)

    proven = run(own_windows, precision="auto", max_int4_loss_increase=0.02)

    reports = proven.report.precisions
    assert [(one.weights, one.cache, one.refusal is None) for one in reports] == [
        ("fp32", "fp32", True),
        ("int4", "fp32", False),
        ("int8", "fp32", True),
        ("int8", "int8", True),
    ]
    assert [sorted(one.tokens_per_second) for one in reports] == [[1, 8], [], [1, 8], [1, 8]]
    assert proven.precision == choose(reports)
    assert (tmp_path / "version" / "model.onnx.data").is_file()


@pytest.mark.parametrize(("max_kl", "is_fitted"), [(0.02, True), (0.004, False)])
def test_run_of_auto_refuses_4_bits_that_a_model_does_not_bear(
    run: Run, own_windows: np.ndarray, monkeypatch: pytest.MonkeyPatch, max_kl: float,
    is_fitted: bool,
) -> None:  # fmt: skip
    """Of the random model int4 is 0.02 to 0.04 nats away, int8 a thousandth of that."""
    monkeypatch.setattr("training.export.speed._ROUNDS", 1)
    fitted: list[str] = []
    moments = InputMoments.of
    monkeypatch.setattr(
        InputMoments, "of", lambda self, name: [fitted.append(name), moments(self, name)][1]
    )

    proven = run(own_windows, precision="auto", max_kl=max_kl, min_top_1_agreement=0.9)

    by_name = {(one.weights, one.cache): one for one in proven.report.precisions}
    assert list(by_name) == [
        ("fp32", "fp32"), ("int4", "fp32"), ("int8", "fp32"), ("int8", "int8"),
    ]  # fmt: skip
    int4, int8 = by_name["int4", "fp32"], by_name["int8", "fp32"]
    assert "min_top_1_agreement" in str(int4.refusal)
    assert int8.refusal is None
    assert proven.precision.refusal is None
    assert (len(fitted) > 0) == is_fitted
    assert int4.divergence.mean_kl > 20 * int8.divergence.mean_kl
    assert int4.divergence.top_1_agreement < 0.9 < int8.divergence.top_1_agreement
    assert int4.divergence.tokens == own_windows[:, 1:].size
    low, high = int4.divergence.mean_kl_interval
    assert low < int4.divergence.mean_kl < high
    assert int4.divergence.equal_answers is not None


def test_run_of_auto_tries_an_int8_cache_beside_fp32_where_nothing_else_qualifies(
    run: Run, own_windows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.export.speed._ROUNDS", 1)

    proven = run(own_windows, precision="auto", max_int8_loss_increase=0.0, max_kl=1e-9)

    measured = [(one.weights, one.cache, one.refusal is None) for one in proven.report.precisions]
    assert measured == [
        ("fp32", "fp32", True),
        ("int4", "fp32", False),
        ("int8", "fp32", False),
        ("fp32", "int8", False),
    ]
    assert (proven.precision.weights, proven.precision.cache) == ("fp32", "fp32")
    assert proven.precision.divergence is None


def test_run_reads_windows_once_in_fp32_and_no_more_than_a_decision_needs(
    run: Run, tiny_session: ort.InferenceSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = np.random.default_rng(3).integers(3, 259, (40, 41))
    opened: list[str] = []
    monkeypatch.setattr(
        "training.export.comparison.open_session",
        lambda graph: [opened.append(graph.parent.name), open_session(graph)][1],
    )

    proven = run(many, precision="int8", max_kl=0.02)

    assert proven.report.validation_tokens == 8 * 40
    assert opened == ["fp32", "int8-block-32", "int8-block-32"]
    expected = session_losses(tiny_session, many[sorted(spread(40)[:8])]).mean()
    assert proven.report.val_loss_fp32 == pytest.approx(expected, abs=1e-5)


def test_run_reads_at_least_so_many_windows(run: Run) -> None:
    many = np.random.default_rng(3).integers(3, 259, (12, 41))

    assert run(many, precision="fp32").report.validation_tokens == 8 * 40
    assert run(many, precision="fp32", least=12).report.validation_tokens == 12 * 40


def test_run_of_auto_keeps_the_fastest(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def speeds(graphs: list[Path], **limits: object) -> list[Speed]:
        assert limits == {"max_model_len": 128, "max_query_len": 32, "progress": None}
        return [Speed({1: 10.0 * (place == 3) + 1, 8: 8.0}, 50.0) for place in range(len(graphs))]

    monkeypatch.setattr("training.export.graph_export.measure_speeds", speeds)

    proven = run(precision="auto")

    assert (proven.precision.weights, proven.precision.cache) == ("int8", "fp32")
    assert proven.precision.tokens_per_second == {1: 11.0, 8: 8.0}


def test_run_fits_int4_weights_to_the_calibration(
    run: Run, own_windows: np.ndarray, tiny_session: ort.InferenceSession, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def distance() -> float:
        """Mean squared difference of logits from those of fp32."""
        run(own_windows, precision="int4", cache="fp32")
        session = open_session(tmp_path / "version" / "model.onnx")
        fp32, int4 = (
            ReferenceRunner(each, slots=1, capacity=40).step({0: own_windows[0, :-1].tolist()})[0]
            for each in (tiny_session, session)
        )
        return float(((int4 - fp32) ** 2).mean())

    fitted = distance()
    monkeypatch.setattr(InputMoments, "of", lambda self, name: None)

    assert fitted < 0.9 * distance()


@pytest.mark.parametrize(
    ("count", "precision", "expected"),
    [
        (7, "int4", (7, 7)),
        (8, "int4", (6, 2)),
        (64, "auto", (48, 16)),
        (64, "int8", (64, 64)),
        (64, "fp32", (64, 64)),
    ],
)
def test_split_windows_measures_on_others_than_it_fits_to(
    count: int, precision: str, expected: tuple[int, int]
) -> None:
    windows = np.arange(count)[:, None]

    measured, fitted = split_windows(windows, ExportConfig(precision=precision))

    assert (len(measured), len(fitted)) == expected
    if len(measured) < count:
        assert sorted([*measured[:, 0], *fitted[:, 0]]) == list(range(count))


def test_run_of_a_recurrent_family_measures_its_weights(run: Run, tmp_path: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "gru", family="gru")

    proven = run(checkpoint=checkpoint, precision="int8")

    (report,) = proven.report.precisions
    assert (report.weights, report.cache, report.cache_bytes_per_token) == ("int8", "fp32", 0)
