"""Runs of the packed graph: every way of cutting the work gives the same logits."""

import random
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from everloop.errors import ArtifactError, EngineError
from everloop.manifest import read_manifest
from serving.engine import model_runner
from serving.engine.config import EngineConfig
from serving.engine.detokenizer import Detokenizer
from serving.engine.model_runner import ModelRunner
from serving.engine.sampling_params import SamplingParams
from serving.engine.scheduler import ScheduledRow
from serving.engine.sequence import Sequence
from serving.engine.vocabulary import Vocabulary
from tests.serving.engine.conftest import byte_tokenizer

VOCABULARY = Vocabulary(byte_tokenizer())
PROMPT = [5, 80, 200, 17, 33, 99, 140, 7, 61, 250, 12, 5]


def _sequence(token_ids: list[int], slot: int, computed: int = 0) -> Sequence:
    params = SamplingParams(max_tokens=1)
    sequence = Sequence("a", token_ids, params, 0, Detokenizer(VOCABULARY), 0.0, slot=slot)
    sequence.num_computed_tokens = computed
    return sequence


def _row(sequence: Sequence, count: int, num_logits: int = 1) -> ScheduledRow:
    start = sequence.num_computed_tokens
    return ScheduledRow(sequence, sequence.token_ids[start : start + count], num_logits)


def _advance(rows: list[ScheduledRow]) -> None:
    for row in rows:
        row.sequence.num_computed_tokens += len(row.token_ids)


@pytest.fixture
def runner(tiny_version: Path, engine_config: EngineConfig) -> ModelRunner:
    runner = ModelRunner(tiny_version, read_manifest(tiny_version), engine_config)
    for state in runner.state.arrays:
        state.fill(7.7)  # what another sequence left must never be read
    return runner


@pytest.fixture
def whole(runner: ModelRunner) -> NDArray[np.float32]:
    """Logits after PROMPT, run in one piece alone."""
    return runner.run([_row(_sequence(PROMPT, 0), len(PROMPT))])[0].copy()


@pytest.mark.parametrize("cuts", [(1,) * 12, (5, 7), (1, 10, 1), (11, 1)])
@pytest.mark.parametrize("slot", [0, 3])
def test_run_in_chunks_gives_the_logits_of_the_whole(
    runner: ModelRunner, whole: NDArray[np.float32], cuts: tuple[int, ...], slot: int
) -> None:
    sequence = _sequence(PROMPT, slot)
    for cut in cuts:
        rows = [_row(sequence, cut)]
        logits = runner.run(rows)
        _advance(rows)
    np.testing.assert_allclose(logits[0], whole, atol=1e-5)


@pytest.mark.parametrize("allow_spinning", [False, True])
def test_threads_and_spinning_are_those_of_the_configuration(
    tiny_version: Path, engine_config: EngineConfig, allow_spinning: bool
) -> None:
    settings = {"num_threads": 2, "allow_spinning": allow_spinning}
    config = engine_config.model_copy(update=settings)
    runner = ModelRunner(tiny_version, read_manifest(tiny_version), config)
    options = runner._session.get_session_options()
    spinning = options.get_session_config_entry("session.intra_op.allow_spinning")
    assert (options.intra_op_num_threads, spinning) == (2, str(int(allow_spinning)))


def test_run_without_sampled_rows_gives_no_logits(runner: ModelRunner) -> None:
    assert runner.run([_row(_sequence(PROMPT, 1), 4, num_logits=0)]).shape == (0, 259)


def test_run_gives_the_last_logits_of_each_row_in_order(runner: ModelRunner) -> None:
    prompts = [PROMPT, PROMPT[::-1]]
    expected = [
        runner.run([_row(_sequence(prompt[: size + 1], 0), size + 1)])[0].copy()
        for prompt, size in (
            (prompts[0], 10),
            (prompts[0], 11),
            *((prompts[1], n) for n in range(12)),
        )
    ]
    rows = [
        _row(_sequence(PROMPT, 0), 12, num_logits=2),
        _row(_sequence(PROMPT, 1), 3, num_logits=0),
        _row(_sequence(PROMPT[::-1], 3), 12, num_logits=12),
    ]
    np.testing.assert_allclose(runner.run(rows), expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_random_mixes_of_decode_chunks_and_holes_give_what_each_gives_alone(
    runner: ModelRunner, seed: int
) -> None:
    random_ = random.Random(seed)
    sequences = [
        _sequence([random_.randrange(259) for _ in range(random_.randint(2, 40))], slot)
        for slot in random_.sample(range(4), 3)
    ]
    got: dict[int, NDArray[np.float32]] = {}
    while unfinished := [one for one in sequences if one.num_pending_tokens]:
        rows = []
        for sequence in sorted(unfinished, key=lambda one: one.slot or 0):
            if random_.random() < 0.7:
                count = random_.randint(1, min(10, sequence.num_pending_tokens))
                rows.append(_row(sequence, count, int(count == sequence.num_pending_tokens)))
        if not rows:
            continue
        logits = runner.run(rows).copy()
        _advance(rows)
        for row, values in zip([row for row in rows if row.num_logits], logits, strict=True):
            got[row.sequence.slot or 0] = values
    for sequence in sequences:
        start = max(len(sequence.token_ids) - 32, 0)  # steps are at most 32 wide
        alone = _sequence(sequence.token_ids, 0)
        if start:
            rows = [_row(alone, start)]
            runner.run(rows)
            _advance(rows)
        expected = runner.run([_row(alone, 32)])[0]
        np.testing.assert_allclose(got[sequence.slot or 0], expected, atol=1e-5)


def test_run_leaves_the_state_of_holes_untouched(runner: ModelRunner) -> None:
    runner.run([_row(_sequence(PROMPT, 0), 3), _row(_sequence(PROMPT, 3), 5)])
    assert all((state[1:3] == np.float32(7.7)).all() for state in runner.state.arrays)


def test_run_from_a_lower_length_forgets_what_came_after(
    runner: ModelRunner, whole: NDArray[np.float32]
) -> None:
    runner.run([_row(_sequence(PROMPT[:6] + [250] * 20, 2), 26)])
    logits = runner.run([_row(_sequence(PROMPT, 2, computed=6), 6)])
    np.testing.assert_allclose(logits[0], whole, atol=1e-5)


def test_run_keeps_bindings_up_to_a_limit(
    runner: ModelRunner, whole: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_runner, "_MAX_BINDINGS", 3)
    for count in range(1, 10):
        runner.run([_row(_sequence(PROMPT, 0), count)])
    assert len(runner._bindings) == 3
    again = runner.run([_row(_sequence(PROMPT, 0), len(PROMPT))])
    np.testing.assert_allclose(again[0], whole, atol=1e-6)


@pytest.mark.parametrize(
    ("slots", "count", "computed", "message"),
    [
        ([0], 4, 158, "exceeds the cache capacity of 160"),
        ([1, 1], 2, 0, "malformed"),
        ([2, 1], 2, 0, "malformed"),
        ([4], 2, 0, "malformed"),
        ([0], 33, 0, "malformed"),
        ([0], 0, 0, "malformed"),
        ([0, 1], 20, 0, "malformed"),
    ],
)
def test_run_refuses_a_plan_that_would_write_elsewhere(
    runner: ModelRunner, slots: list[int], count: int, computed: int, message: str
) -> None:
    sequences = [_sequence([5] * 200, slot, computed) for slot in slots]
    with pytest.raises(EngineError, match=message):
        runner.run([_row(sequence, count) for sequence in sequences])


def test_run_after_a_refused_run_works(runner: ModelRunner, whole: NDArray[np.float32]) -> None:
    with pytest.raises(EngineError, match="ONNX Runtime failed"):
        runner.run([_row(_sequence([10**6], 0), 1)])
    again = runner.run([_row(_sequence(PROMPT, 0), len(PROMPT))])
    np.testing.assert_allclose(again[0], whole, atol=1e-6)


def test_reopen_keeps_the_state_of_the_slots(
    runner: ModelRunner, whole: NDArray[np.float32]
) -> None:
    runner.run([_row(_sequence(PROMPT, 1), 8)])
    runner.reopen()
    logits = runner.run([_row(_sequence(PROMPT, 1, computed=8), 4)])
    np.testing.assert_allclose(logits[0], whole, atol=1e-5)


def test_graph_that_is_no_graph_is_refused(
    tiny_version: Path, engine_config: EngineConfig, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ArtifactError, match=r"model\.onnx cannot be opened by ONNX Runtime"):
        ModelRunner(tmp_path, read_manifest(tiny_version), engine_config)
