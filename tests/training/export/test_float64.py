"""The float64 pass is transformers' own, but for float32 that transformers asks for by name."""

from pathlib import Path

import pytest
import torch

from tests.tiny_model import FAMILIES, make_tiny_checkpoint
from training.export.float64 import float64_logits, hold_wide
from training.pretrained import load_model

TOKENS = list(range(3, 60))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_in_float64_is_close_to_the_model_in_float64_and_leaves_the_weights(
    tmp_path: Path, family: str
) -> None:
    model = load_model(make_tiny_checkpoint(tmp_path, family=family), attn_implementation="eager")
    before = {name: value.clone() for name, value in model.state_dict().items()}

    found = float64_logits(model, TOKENS)

    assert found.dtype == torch.float64
    assert {name: value.dtype for name, value in model.state_dict().items()} == {
        name: value.dtype for name, value in before.items()
    }
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        expected = model.double()(torch.tensor([TOKENS])).logits[0]
    assert torch.allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "lstm"])
def test_parameters_held_in_float64_give_the_same_and_leave_the_weights(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(make_tiny_checkpoint(tmp_path, family=family), attn_implementation="eager")
    held = hold_wide(model)

    found = float64_logits(model, TOKENS, held)

    assert len(held) == len(list(model.parameters()))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(found, float64_logits(model, TOKENS))
    monkeypatch.setattr("training.export.float64._MAX_HELD_BYTES", 1000)
    assert hold_wide(model) == {}


def test_what_transformers_computes_in_float32_by_name_is_float64(tmp_path: Path) -> None:
    model = load_model(make_tiny_checkpoint(tmp_path, family="llama"), attn_implementation="eager")
    norm = model.model.norm
    seen = []
    norm.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))

    float64_logits(model, TOKENS)

    ((hidden, found),) = seen
    size = (hidden.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()
    assert torch.allclose(found, norm.weight.double() * hidden / size, rtol=1e-13, atol=0)


def test_weights_are_narrow_again_after_a_pass_that_fails(tmp_path: Path) -> None:
    model = load_model(make_tiny_checkpoint(tmp_path, family="llama"), attn_implementation="eager")

    for held in (None, hold_wide(model)):
        with pytest.raises(IndexError):
            float64_logits(model, [10**6], held)

    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
