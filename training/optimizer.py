"""The optimizers: Muon with AdamW, AdamW alone, SGD; all are torch's, Muon in a format of choice.

Weight decay acts on the matrices inside layers; embeddings, head, norms and biases go without. Muon
with AdamW is one object, because a trainer saves, restores and schedules exactly one.

Source: Muon, https://kellerjordan.github.io/posts/muon/
"""

import re
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from training.models import LearningRates
from training.muon import Muon

# Embeddings and heads as transformers' architectures name them.
_AROUND_LAYERS = re.compile(r"embed|lm_head|\b(wte|wpe)\b")


class MuonAdamW(Optimizer):
    """Muon and AdamW over one set of parameter groups and one state.

    Args:
        matrices: 2-D weights inside layers, for Muon.
        others: embeddings, head and norms, for AdamW, without weight decay.
        muon_dtype: in which Muon makes its updates orthogonal.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        others: list[nn.Parameter],
        *,
        muon_learning_rate: float,
        adamw_learning_rate: float,
        weight_decay: float,
        muon_dtype: torch.dtype = torch.float32,
    ) -> None:
        self._muon = Muon(
            matrices,
            dtype=muon_dtype,
            lr=muon_learning_rate,
            weight_decay=weight_decay,
            momentum=0.95,
            nesterov=True,
        )
        self._adamw = AdamW(
            others, lr=adamw_learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True
        )
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {})
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step with both algorithms."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._muon.step()
        self._adamw.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state; a state of other parameters is refused with ValueError."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Let both algorithms work on this object's groups and state; parameters are disjoint."""
        self._muon.param_groups, self._adamw.param_groups = (
            self.param_groups[:1],
            self.param_groups[1:],
        )
        self._muon.state = self._adamw.state = self.state


def make_optimizer(
    model: nn.Module,
    rates: LearningRates,
    weight_decay: float,
    muon_dtype: torch.dtype = torch.float32,
) -> Optimizer:
    """Make the optimizer whose learning rates are given."""
    matrices, others = split_parameters(model)
    if rates.muon is not None and rates.adamw is not None:
        return MuonAdamW(
            matrices,
            others,
            muon_learning_rate=rates.muon,
            adamw_learning_rate=rates.adamw,
            weight_decay=weight_decay,
            muon_dtype=muon_dtype,
        )
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if rates.sgd is not None:
        return SGD(groups, lr=rates.sgd, momentum=0.9, nesterov=True)
    return AdamW(groups, lr=cast(float, rates.adamw), betas=(0.9, 0.99), fused=True)


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Sort trainable parameters into matrices inside layers and all others.

    A tied embedding and head is one parameter, and an embedding.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            inside = parameter.ndim == 2 and not _AROUND_LAYERS.search(name)
            (matrices if inside else others).append(parameter)
    return matrices, others
