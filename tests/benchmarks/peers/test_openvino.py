from pathlib import Path

import pytest

from benchmarks.peers import openvino
from benchmarks.peers.openvino import OpenVinoSide
from benchmarks.random_model import TINY, make_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not openvino.is_present(), reason="no OpenVINO GenAI: run make bench-peers"),
]


def test_decodes_and_prefills_our_weights(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", TINY)
    with OpenVinoSide(checkpoint, "Q8_0", 1) as side:
        assert side.decode([[5, 6, 7, 8]], 8) > 0
        assert side.decode([[5, 6, 7, 8]] * 3, 8) > 0
        assert side.prefill([5] * 64) > 0
