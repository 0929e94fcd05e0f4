from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from everloop.errors import ArtifactError
from training.export.session import ReferenceRunner, open_session

Build = Callable[..., ort.InferenceSession]


def test_open_session_refuses_what_is_no_graph(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph")

    with pytest.raises(ArtifactError, match=r"model\.onnx: onnxruntime cannot load the graph"):
        open_session(path)


def test_step_adds_to_the_cache(tiny_session: ort.InferenceSession, tokens: list[int]) -> None:
    whole = ReferenceRunner(tiny_session, slots=1, capacity=64).step({0: tokens})[0]
    runner = ReferenceRunner(tiny_session, slots=1, capacity=100)

    parts = [runner.step({0: part})[0] for part in (tokens[:30], tokens[30:59], tokens[59:])]

    assert runner.lengths.tolist() == [60]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_step_gives_a_decoding_row_the_same_bits_beside_other_decoding_rows(
    tiny_checkpoint: Path, build: Build, tokens: list[int], precision: str
) -> None:
    session = build(tiny_checkpoint, precision)
    alone = ReferenceRunner(session, slots=1, capacity=100)
    crowd = ReferenceRunner(session, slots=6, capacity=100, fill=7.7)
    for runner, slot in ((alone, 0), (crowd, 4)):
        runner.step({slot: tokens[:20]})
    crowd.step({0: tokens[3:40], 2: tokens[:5]})

    for index in range(20, 30):
        token = tokens[index : index + 1]
        one = alone.step({0: token})[0]
        other = crowd.step({4: token, 0: [9], 2: [index]})[4]
        assert np.array_equal(one, other)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_step_gives_a_row_the_same_logits_beside_a_chunk(
    tiny_checkpoint: Path, build: Build, tokens: list[int], precision: str
) -> None:
    session = build(tiny_checkpoint, precision)
    alone = ReferenceRunner(session, slots=1, capacity=100)
    crowd = ReferenceRunner(session, slots=3, capacity=100, fill=7.7)

    for start in range(0, 60, 20):
        one = alone.step({0: tokens[start : start + 20]})[0]
        other = crowd.step({1: tokens[start : start + 20], 0: tokens[:29]})[1]
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_step_refuses_a_chunk_wider_than_the_cache_and_goes_on(
    tiny_session: ort.InferenceSession, tokens: list[int]
) -> None:
    runner = ReferenceRunner(tiny_session, slots=2, capacity=64)
    runner.step({0: tokens[:50]})

    # Slot 0 is idle, but its 50 tokens and the padded width of 32 exceed its 64.
    with pytest.raises(RuntimeError, match=r"does not fit in the KV cache capacity \(64\)"):
        runner.step({1: tokens[:32]})
    assert runner.lengths.tolist() == [50, 0]

    logits = runner.step({0: tokens[50:51]})[0]
    expected = ReferenceRunner(tiny_session, slots=1, capacity=64).step({0: tokens[:51]})[0]
    np.testing.assert_allclose(logits[-1], expected[-1], atol=1e-4)


def test_copy_prefix_starts_a_slot(tiny_session: ort.InferenceSession, tokens: list[int]) -> None:
    runner = ReferenceRunner(tiny_session, slots=2, capacity=100, fill=7.7)
    whole = runner.step({0: tokens})[0]

    runner.copy_prefix(0, 1, 24)
    copied = runner.step({1: tokens[24:]})[1]

    np.testing.assert_allclose(copied, whole[24:], atol=1e-4)


def test_fill_leaves_the_state_that_a_step_leaves(
    tiny_session: ort.InferenceSession, tokens: list[int]
) -> None:
    stepped, filled = (ReferenceRunner(tiny_session, slots=2, capacity=60) for _ in range(2))
    stepped.step({0: tokens[:9], 1: tokens[:30]})
    filled.fill({0: tokens[:9], 1: tokens[:30]})

    assert filled.lengths.tolist() == [9, 30]
    for name, values in stepped.state.items():
        np.testing.assert_array_equal(filled.state[name], values)
    filled.clear()
    assert filled.lengths.tolist() == [0, 0]
