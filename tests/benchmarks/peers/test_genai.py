import pytest

from benchmarks.peers import genai
from benchmarks.peers.genai import GenaiSide
from benchmarks.random_model import TINY, make_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not genai.is_present(), reason="no onnxruntime-genai: run make bench-peers"),
]


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> "GenaiSide":  # type: ignore[misc]
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("genai") / "checkpoint", TINY)
    with GenaiSide(checkpoint, "fp32", 1) as loaded:
        yield loaded


def test_decodes_and_prefills(side: GenaiSide) -> None:
    assert side.decode([[5, 6, 7, 8]] * 3, 8) > 0
    assert side.prefill([5] * 64) > 0


def test_a_static_batch_makes_those_who_come_later_wait_for_its_longest_row(
    side: GenaiSide,
) -> None:
    prompts = [[5] * 16, [6] * 40, [7] * 8]
    first, second, late = side.serve_trace([0.0, 0.0, 0.001], prompts, [4, 60, 2], max_rows=2)
    assert [len(first), len(second), len(late)] == [4, 60, 2]
    assert first == second[:4]  # one batch
    assert late[0] > second[-1]


def test_no_request_is_answered_before_it_arrives(side: GenaiSide) -> None:
    (times,) = side.serve_trace([0.05], [[5, 6]], [1], max_rows=2)
    assert times[0] >= 0.05
