import copy

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from training.config import ModelConfig
from training.models import build_model
from training.optimizer import MuonAdamW, split_parameters
from training.tokens import SpecialTokenIds


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))


def _optimizer(model: nn.Module) -> MuonAdamW:
    return MuonAdamW(
        [model[0].weight, model[1].weight],
        [model[0].bias, model[1].bias],
        muon_learning_rate=0.02,
        adamw_learning_rate=0.003,
        weight_decay=0.1,
        muon_dtype=torch.bfloat16,
    )


def _step(model: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()
    model(torch.arange(12.0).view(2, 6)).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()


def _weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.flatten() for parameter in model.parameters()])


def test_step_equals_muon_and_adamw_apart() -> None:
    together, apart = _model(), _model()
    optimizer = _optimizer(together)
    muon = torch.optim.Muon(
        [apart[0].weight, apart[1].weight], lr=0.02, weight_decay=0.1, momentum=0.95
    )
    adamw = torch.optim.AdamW(
        [apart[0].bias, apart[1].bias], lr=0.003, betas=(0.9, 0.99), weight_decay=0.0, fused=True
    )
    for _ in range(3):
        _step(together, optimizer)
        _step(apart, muon, adamw)
    assert torch.equal(_weights(together), _weights(apart))


def test_state_dict_continues_where_it_was_taken() -> None:
    model = _model()
    optimizer = _optimizer(model)
    _step(model, optimizer)
    copied = copy.deepcopy(model)
    restored = _optimizer(copied)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(2):
        _step(model, optimizer)
        _step(copied, restored)
    assert torch.equal(_weights(model), _weights(copied))


def test_state_dict_carries_learning_rates_to_both_algorithms() -> None:
    model = _model()
    optimizer = _optimizer(model)
    _step(model, optimizer)
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["lr"] = 0.0
    optimizer.load_state_dict(state)
    before = _weights(model).clone()
    _step(model, optimizer)
    assert torch.equal(_weights(model), before)


def test_load_state_dict_refuses_other_parameters() -> None:
    model = _model()
    state = _optimizer(model).state_dict()
    state["param_groups"] = state["param_groups"][:1]
    with pytest.raises(ValueError, match="different number of parameter groups"):
        _optimizer(model).load_state_dict(state)


def test_scheduler_moves_both_learning_rates() -> None:
    optimizer = _optimizer(_model())
    LambdaLR(optimizer, lambda step: 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.0015]


def test_split_parameters_gives_muon_the_matrices_inside_layers() -> None:
    model = build_model(ModelConfig(size="1m"), 300, SpecialTokenIds(bos=0, pad=0, eos=(0,)), 0)
    matrices, others = split_parameters(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert len(matrices) == 4 * 7  # q, k, v, o, gate, up, down
    assert all(".layers." in names[id(parameter)] for parameter in matrices)
    assert "model.embed_tokens.weight" in {names[id(parameter)] for parameter in others}
    assert len(matrices) + len(others) == len(list(model.parameters()))
