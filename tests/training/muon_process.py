"""Some steps of MuonAdamW as one of several processes.

python -m torch.distributed.run --nproc-per-node 2 -m tests.training.muon_process FOLDER DTYPE
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from training import muon
from training.config import ModelConfig, PretrainConfig
from training.models import build_model, learning_rates
from training.optimizer import make_optimizer
from training.tokens import SpecialTokenIds


def train(dtype: torch.dtype) -> dict[str, Any]:
    """Three steps on seeded gradients: weights, momenta, and how often a matrix was worked on."""
    calls = []
    work = muon.orthogonalize

    def counted(matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        calls.append(matrix.shape)
        return work(matrix, dtype)

    muon.orthogonalize = counted
    model = build_model(ModelConfig(size="1m"), 300, SpecialTokenIds(bos=0, pad=0, eos=(0,)), 0)
    rates = learning_rates(128, PretrainConfig())
    optimizer = make_optimizer(model, rates, 0.1, muon_dtype=dtype)
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    muon.orthogonalize = work
    state = optimizer.state_dict()["state"].values()
    return {
        "weights": [parameter.detach() for parameter in model.parameters()],
        "momenta": [one["momentum_buffer"] for one in state if "momentum_buffer" in one],
        "orthogonalized": len(calls),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    result = train(getattr(torch, sys.argv[2]))
    torch.save(result, Path(sys.argv[1]) / f"rank-{distributed.get_rank()}.pt")
    distributed.destroy_process_group()
