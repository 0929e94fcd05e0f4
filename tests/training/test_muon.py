import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.muon_process import train
from training.muon import Muon, orthogonalize


def _parameters() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((24, 8), (8, 24), (16, 16))
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def _steps(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


@pytest.mark.parametrize("nesterov", [True, False])
def test_in_bf16_it_takes_the_steps_of_torch(nesterov: bool) -> None:
    ours, theirs = _parameters(), _parameters()
    settings = {"lr": 0.02, "weight_decay": 0.1, "nesterov": nesterov}
    stock = torch.optim.Muon(theirs, **settings)
    optimizer = Muon(ours, dtype=torch.bfloat16, **settings)
    assert torch.equal(_steps(optimizer, ours), _steps(stock, theirs))


def test_in_fp32_it_goes_where_torch_goes() -> None:
    ours, theirs = _parameters(), _parameters()
    begin = torch.cat([parameter.detach().flatten() for parameter in _parameters()])
    moved = _steps(Muon(ours, dtype=torch.float32, lr=0.02, weight_decay=0.1), ours) - begin
    stock = _steps(torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1), theirs) - begin
    assert torch.nn.functional.cosine_similarity(moved, stock, dim=0) > 0.999
    assert not torch.equal(moved, stock)


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_singular_values_come_near_one_and_vectors_stay(shape: tuple[int, int]) -> None:
    left, values, right = torch.linalg.svd(
        torch.randn(shape, generator=torch.Generator().manual_seed(2)), full_matrices=False
    )
    values = values.clamp(min=0.05 * float(values.max()))
    result = orthogonalize(left * values @ right, torch.float32)
    inner = left.T @ result @ right.T
    assert result.dtype == torch.float32
    assert inner.diagonal().min() > 0.6 and inner.diagonal().max() < 1.3
    assert (inner - inner.diagonal().diag()).abs().max() < 1e-4


def test_a_zero_gradient_moves_nothing() -> None:
    assert torch.equal(orthogonalize(torch.zeros(4, 6), torch.float32), torch.zeros(4, 6))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_two_processes_share_the_matrices_and_end_in_equal_bits(tmp_path: Path, dtype: str) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    module = ["-m", "tests.training.muon_process", str(tmp_path), dtype]
    assert subprocess.run([sys.executable, *launcher, *module], timeout=120).returncode == 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = train(getattr(torch, dtype))
    torch.set_num_threads(threads)
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt") for rank in (0, 1))
    assert alone["orthogonalized"] == 3 * 28
    assert first["orthogonalized"] == second["orthogonalized"] == 3 * 14
    for found in (first, second):
        assert all(map(torch.equal, found["weights"], alone["weights"]))
        assert found["momenta"] and all(map(torch.equal, found["momenta"], alone["momenta"]))
