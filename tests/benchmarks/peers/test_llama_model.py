from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from benchmarks.peers import llama_model
from benchmarks.peers.llama_cpp import write_model
from benchmarks.peers.llama_model import LlamaModel
from benchmarks.random_model import TINY, make_checkpoint
from benchmarks.stepping import read_in_chunks, read_token_by_token

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not llama_model.is_present(), reason="no libllama: run make bench-peers"),
]
WINDOWS = np.random.default_rng(0).integers(3, TINY.vocab_size, (3, 24))
FIRST = 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("llama") / "checkpoint", TINY)


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_f32_gives_the_logits_of_torch_in_every_way(checkpoint: Path, rows: int) -> None:
    network = LlamaForCausalLM.from_pretrained(checkpoint).eval()
    with torch.inference_mode():
        expected = network(torch.tensor(WINDOWS)).logits[:, FIRST:].numpy()
    given = np.zeros_like(expected)
    with LlamaModel("F32", write_model(checkpoint, "F32"), "f32", 3, 32, 1) as model:
        windows = (
            read_token_by_token(model, WINDOWS, FIRST, rows)
            if rows
            else read_in_chunks(model, WINDOWS, FIRST)
        )
        for number, at, logits in windows:
            given[number, at] = logits
    # Its F32 rounds more than torch does, by 6e-4 here; a wrong place or row differs by 0.4.
    np.testing.assert_allclose(given, expected, atol=2e-3)


def test_q8_0_differs_a_little(checkpoint: Path) -> None:
    work = {0: WINDOWS[0].tolist()}
    with LlamaModel("F32", write_model(checkpoint, "F32"), "f16", 1, 32, 1) as model:
        exact = model.step(work)[0]
    with LlamaModel("Q8_0", write_model(checkpoint, "Q8_0"), "q8_0", 1, 32, 1) as model:
        coarse = model.step(work)[0]
    assert 0 < np.abs(exact - coarse).max() < 0.1
