"""Wide steps run another graph over the same state, from a number of tokens on that is measured."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from everloop.machine_record import OnnxRuntimeSpeed, ProductSpeed, load_record
from everloop.manifest import read_manifest
from serving.engine import model_runner, wide_steps
from serving.engine.config import EngineConfig
from serving.engine.exactness import is_exact_in_chunks
from serving.engine.llm_engine import LLMEngine
from serving.engine.memory import check_memory, needed_memory
from serving.engine.model_runner import ModelRunner
from serving.engine.sampling_params import SamplingParams
from serving.engine.scheduler import ScheduledRow
from serving.engine.wide_steps import WIDTHS, Comparison, Times, may_win, switch_point
from tests.serving.engine.conftest import make_sequence
from tests.tiny_model import make_tiny_version

GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
PROMPTS = [
    np.random.default_rng(length).integers(3, 259, length).tolist() for length in (3, 40, 17, 70)
]


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ({64: 2.0, 32: 1.5, 16: 1.06, 8: 0.8}, 16),
        ({64: 2.0, 32: 1.5, 16: 1.04, 8: 1.5}, 32),  # within the noise, whatever comes below it
        ({64: 1.04, 32: 2.0}, None),
        ({64: 0.5}, None),
        ({64: 3.0, 32: 3.0, 16: 3.0, 8: 3.0, 4: 3.0, 2: 3.0}, 2),
    ],
)
def test_switch_point_is_the_least_of_all_faster_widths(
    ratios: dict[int, float], expected: int | None
) -> None:
    asked = []

    def measure(width: int) -> Times:
        asked.append(width)
        return ratios[width], 1.0

    assert switch_point(WIDTHS, measure) == expected
    assert asked == list(WIDTHS[: len(asked)])  # and none below the first that is not faster


def test_switch_point_without_a_width_is_none() -> None:
    assert switch_point([], lambda width: (2.0, 1.0)) is None


@pytest.fixture(scope="module", params=[("int8", "int8"), ("int8", "fp32"), ("int4", "int8")])
def version(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Quantized, with hidden states."""
    precision, cache = request.param
    folder = tmp_path_factory.mktemp("wide")
    return make_tiny_version(
        folder, family="mistral", precision=precision, cache=cache, embeddings=True
    )


@pytest.fixture(scope="module")
def int8_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    return make_tiny_version(folder, family="mistral", precision="int8", cache="int8")


@pytest.fixture
def config(engine_config: EngineConfig) -> EngineConfig:
    return engine_config.model_copy(update={"wide_steps": "auto"})


def speed(*gains: float) -> OnnxRuntimeSpeed:
    """A machine whose int8 products are so many times as fast at 1, 8, 32 and 256 rows."""
    products = tuple(
        ProductSpeed(rows=rows, fp32=10, int8=10 * gain)
        for rows, gain in zip((1, 8, 32, 256), gains, strict=True)
    )
    return OnnxRuntimeSpeed(version="1", threads=1, products=products)


NO_8_BIT_PRODUCTS = speed(3.0, 1.2, 0.8, 0.5)


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ((3.0, 1.2, 0.8, 0.5), True),
        ((2.1, 1.4, 1.2, 1.4), True),
        ((2.1, 1.4, 1.3, 1.2), True),
        ((1.0, 1.0, 1.3, 1.3), False),  # few rows are bound by memory
    ],
)
def test_a_machine_with_fast_int8_products_need_not_try(
    gains: tuple[float, ...], expected: bool
) -> None:
    assert may_win(speed(*gains)) == expected


@pytest.fixture
def slow_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which the graphs have to be compared."""
    record = load_record().model_copy(update={"onnxruntime": NO_8_BIT_PRODUCTS})
    monkeypatch.setattr(wide_steps, "onnxruntime_record", lambda: record)


@pytest.fixture
def planted(slow_int8: None, monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """How many times as fast fp32 is, by tokens: what a measurement will find."""
    ratios = dict.fromkeys(WIDTHS, 0.5)

    def measure(self: Comparison, width: int) -> Times:
        return ratios[width], 1.0

    monkeypatch.setattr(wide_steps.Comparison, "measure", measure)
    return ratios


def make_runner(version: Path, config: EngineConfig, wide_from: int | None) -> ModelRunner:
    runner = ModelRunner(version, read_manifest(version), config)
    if wide_from is not None:
        runner.open_wide()
    runner.wide_from = wide_from
    return runner


def take_state(target: ModelRunner, source: ModelRunner) -> None:
    for mine, theirs in zip(target.state.arrays, source.state.arrays, strict=True):
        mine[:] = theirs


def test_steps_alternate_between_the_graphs_over_one_state(
    version: Path, config: EngineConfig
) -> None:
    """Every step gives the bits of its graph alone, and stays near the other's."""
    mixed, narrow, wide = (make_runner(version, config, start) for start in (6, None, 1))
    sequences = [make_sequence(prompt[:20]) for prompt in PROMPTS[1:]]
    for slot, sequence in enumerate(sequences):
        sequence.slot = slot
    steps = [(5, 9, 0), (1, 1, 7), (1, 1, 1), (6, 0, 0), (1, 1, 1), (2, 2, 2), (0, 1, 1)]
    seen: set[bool] = set()
    for widths in steps:
        rows = []
        for sequence, width in zip(sequences, widths, strict=True):
            if width:
                start = sequence.num_computed_tokens
                rows.append(ScheduledRow(sequence, sequence.token_ids[start : start + width], 1))
        take_state(narrow, mixed)
        take_state(wide, mixed)
        found = mixed.run(rows).copy()
        results = {False: narrow.run(rows), True: wide.run(rows)}
        is_wide = sum(widths) >= 6
        seen.add(is_wide)
        np.testing.assert_array_equal(found, results[is_wide])
        same = wide if is_wide else narrow
        for mine, theirs in zip(mixed.state.arrays, same.state.arrays, strict=True):
            np.testing.assert_array_equal(mine, theirs)
        gap = np.abs(results[False] - results[True]).max()
        assert 0 < gap < 0.5 * found.std()
        for row in rows:
            row.sequence.num_computed_tokens += len(row.token_ids)
    assert seen == {False, True}


def test_wide_graph_gives_hidden_states(version: Path, config: EngineConfig) -> None:
    embeddings = []
    for wide_from in (None, 1):
        sequence = make_sequence(PROMPTS[2])
        sequence.slot = 0
        rows = [ScheduledRow(sequence, PROMPTS[2], len(PROMPTS[2]))]
        embeddings.append(make_runner(version, config, wide_from).run_hidden(rows).copy())
    narrow, wide = embeddings
    gap = np.abs(narrow - wide).max()
    assert narrow.shape == (17, 64)
    assert 0 < gap < 0.5 * narrow.std()


@pytest.mark.parametrize("start", [2, 4, 32])
def test_engine_loads_and_answers_with_wide_steps(
    version: Path,
    config: EngineConfig,
    planted: dict[int, float],
    start: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    planted.update({width: 2.0 for width in WIDTHS if width >= start})

    with caplog.at_level(logging.INFO, "serving.engine"):
        engine = LLMEngine.load(version, config)  # golden continuations come out of both graphs

    assert engine._model_runner.wide_from == start
    assert engine.memory == needed_memory(version, engine.manifest, config)
    assert engine.memory.wide > 0
    assert not engine.batch_invariant
    assert f"wide steps version={engine.manifest.tag} from_tokens={start} " in caplog.text
    results = engine.generate(PROMPTS, [GREEDY] * 4)
    assert [len(result.token_ids) for result in results] == [12] * 4


def test_steps_are_wide_from_the_switch_point_on(
    int8_version: Path, config: EngineConfig, planted: dict[int, float]
) -> None:
    planted.update({64: 2.0, 32: 2.0, 16: 2.0})
    engine = LLMEngine.load(int8_version, config)
    runner = engine._model_runner
    widths: dict[bool, set[int]] = {False: set(), True: set()}
    run_graph = runner._binding

    def note(shape: model_runner._Shape) -> object:
        widths[shape.is_wide].add(shape.tokens)
        return run_graph(shape)

    runner._binding = note  # type: ignore[method-assign]
    engine.generate(PROMPTS, [GREEDY] * 4)

    assert max(widths[False]) < 16 <= min(widths[True])


def test_wide_graph_is_dropped_where_it_is_not_faster(
    int8_version: Path, config: EngineConfig, planted: dict[int, float]
) -> None:
    engine = LLMEngine.load(int8_version, config)

    assert engine._model_runner.wide_from is None
    assert engine._model_runner._wide is None
    assert engine.memory.wide == 0


def test_load_measures_both_graphs(
    int8_version: Path, config: EngineConfig, slow_int8: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever this machine is like, the log tells what was found, and the engine follows it."""
    with caplog.at_level(logging.INFO, "serving.engine.wide_steps"):
        engine = LLMEngine.load(int8_version, config)

    (message,) = caplog.messages
    fields = dict(field.split("=", 1) for field in message.split() if "=" in field)
    assert fields["from_tokens"] == str(engine._model_runner.wide_from)
    first, *_ = message.split(" 32:")[-1].split()  # no step of this configuration is wider
    assert float(first) > 0
    assert (engine.memory.wide > 0) == (engine._model_runner.wide_from is not None)


def test_fast_int8_products_leave_the_wide_graph_closed(
    int8_version: Path,
    config: EngineConfig,
    planted: dict[int, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planted.update(dict.fromkeys(WIDTHS, 2.0))
    record = load_record().model_copy(update={"onnxruntime": speed(2.0, 2.0, 2.0, 2.0)})
    monkeypatch.setattr(wide_steps, "onnxruntime_record", lambda: record)
    engine = LLMEngine.load(int8_version, config)
    assert engine._model_runner.wide_from is None
    assert engine.memory.wide == 0


def test_versions_without_a_wide_graph_load_as_before(
    tmp_path: Path, config: EngineConfig, planted: dict[int, float], tiny_version: Path
) -> None:
    planted.update(dict.fromkeys(WIDTHS, 2.0))
    old = make_tiny_version(tmp_path, family="mistral", precision="int8", cache="int8")
    (old / "wide.onnx").unlink()
    manifest = json.loads((old / "manifest.json").read_text(encoding="utf-8"))
    del manifest["files"]["wide.onnx"]
    (old / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")

    for version in (old, tiny_version):  # the other has fp32 weights
        engine = LLMEngine.load(version, config)
        assert engine._model_runner.wide_from is None
        assert engine.memory.wide == 0


def test_off_keeps_every_step_in_the_versions_own_precision(
    int8_version: Path, config: EngineConfig, planted: dict[int, float]
) -> None:
    planted.update(dict.fromkeys(WIDTHS, 2.0))
    engine = LLMEngine.load(int8_version, config.model_copy(update={"wide_steps": "off"}))
    assert engine._model_runner.wide_from is None
    assert engine.memory.wide == 0


def test_wide_steps_are_counted_and_off_where_they_do_not_fit(
    int8_version: Path,
    config: EngineConfig,
    planted: dict[int, float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    planted.update(dict.fromkeys(WIDTHS, 2.0))
    manifest = read_manifest(int8_version)
    need = needed_memory(int8_version, manifest, config)
    table = 259 * 64 * 1.125
    assert need.wide == int(manifest.parameters * 4 + 2 * table + (32 << 20))
    enough, short = (
        config.model_copy(update={"max_memory_bytes": size})
        for size in (need.total, need.total - 1)
    )
    assert check_memory(int8_version, manifest, enough) == need

    with caplog.at_level(logging.INFO, "serving.engine.memory"):
        engine = LLMEngine.load(int8_version, short)

    assert "wide_mib=32 " in caplog.text
    assert f"wide steps off version={manifest.tag} reason=memory" in caplog.text
    assert engine._model_runner.wide_from is None
    assert engine.memory.total == need.total - need.wide


def test_a_refused_session_is_opened_again_with_its_wide_one(
    int8_version: Path, config: EngineConfig
) -> None:
    runner = make_runner(int8_version, config, 4)
    sequence = make_sequence(PROMPTS[2])
    sequence.slot = 0

    def run(count: int) -> NDArray[np.float32]:
        return runner.run([ScheduledRow(sequence, PROMPTS[2][:count], 1)]).copy()

    expected = run(3), run(9)
    runner.reopen()
    np.testing.assert_array_equal(run(3), expected[0])
    np.testing.assert_array_equal(run(9), expected[1])


def test_exactness_is_asked_of_both_graphs(
    int8_version: Path, engine_config: EngineConfig, planted: dict[int, float]
) -> None:
    """Eight tokens at once are then as wide as the one alone; the switch point is kept."""
    planted.update({64: 2.0, 32: 2.0})
    config = engine_config.model_copy(update={"wide_steps": "auto"})
    engine = LLMEngine.load(int8_version, config)
    runner = engine._model_runner
    asked: list[int | None] = []
    run = runner.run

    def note(rows: list[ScheduledRow]) -> NDArray[np.float32]:
        asked.append(runner.wide_from)
        return run(rows)

    runner.run = note  # type: ignore[method-assign]
    is_exact = is_exact_in_chunks(runner, engine._factory, config)

    assert asked[0] is None
    assert is_exact is False or set(asked) == {None, 1}
    assert runner.wide_from == 32
