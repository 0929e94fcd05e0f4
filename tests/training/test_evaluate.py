import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from everloop.errors import DataError
from training.evaluate import Evaluation, checkpoint_losses, evaluate_checkpoint


def _windows(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, (count, 17)).astype(np.uint16)


def test_checkpoint_losses_are_the_models_own(tiny_checkpoint: Path) -> None:
    windows = _windows(5)
    found = checkpoint_losses(tiny_checkpoint, windows, batch_size=2)
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, local_files_only=True)
    with torch.no_grad():
        ids = torch.from_numpy(windows[3:4].astype(np.int64))
        expected = model(input_ids=ids, labels=ids).loss.item()
    assert found.shape == (5,)
    assert found[3] == pytest.approx(expected, abs=1e-5)


def test_evaluate_checkpoint_turns_nats_into_bits_per_byte(tiny_checkpoint: Path) -> None:
    result = evaluate_checkpoint(tiny_checkpoint, _windows(3), bytes_per_token=2.0)
    assert result.tokens == 3 * 16
    assert result.val_bpb == pytest.approx(result.val_loss / 0.693147 / 2, rel=1e-5)


def test_perplexity_of_a_uniform_guess_is_the_vocabulary() -> None:
    result = Evaluation(val_loss=math.log(512), val_bpb=1, tokens=1)
    assert result.perplexity == pytest.approx(512)


def test_checkpoint_losses_refuse_no_windows(tiny_checkpoint: Path) -> None:
    with pytest.raises(DataError, match="no validation window"):
        checkpoint_losses(tiny_checkpoint, np.zeros((0, 17), dtype=np.uint16))
