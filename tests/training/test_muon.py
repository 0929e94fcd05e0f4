import pytest
import torch
from torch import nn

from training.muon import Muon, orthogonalize

SETTINGS = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.95, "nesterov": True}


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 24), (24, 8), (16, 16)]
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def train(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()
    return [weight.detach() for weight in weights]


def test_bf16_takes_the_very_steps_of_torch() -> None:
    ours, theirs = parameters(), parameters()

    found = train(Muon(ours, dtype=torch.bfloat16, **SETTINGS), ours)
    expected = train(torch.optim.Muon(theirs, **SETTINGS), theirs)

    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_fp32_takes_nearly_the_steps_of_torch() -> None:
    ours, theirs = parameters(), parameters()

    found = train(Muon(ours, dtype=torch.float32, **SETTINGS), ours)
    expected = train(torch.optim.Muon(theirs, **SETTINGS), theirs)

    for one, other, start in zip(found, expected, parameters(), strict=True):
        moved = (other - start).norm()
        assert 0 < (one - other).norm() < 0.05 * moved


@pytest.mark.parametrize("shape", [(8, 24), (24, 8)])
def test_orthogonalize_brings_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    values = torch.linalg.svdvals(orthogonalize(matrix, torch.float32))

    # Source of the interval: the authors of the iteration, see the module.
    assert values.min() > 0.6
    assert values.max() < 1.3
