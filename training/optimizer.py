"""Muon for the matrices inside layers and AdamW for the rest, as one torch optimizer.

One object, because a trainer saves, restores and schedules exactly one. Both algorithms are torch's
own; this class only deals out the parameters.

Source: Muon, https://kellerjordan.github.io/posts/muon/
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer


class MuonAdamW(Optimizer):
    """Muon and AdamW over one set of parameter groups and one state.

    Args:
        matrices: 2-D weights inside layers, for Muon.
        others: embeddings, head and norms, for AdamW, without weight decay.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        others: list[nn.Parameter],
        *,
        muon_learning_rate: float,
        adamw_learning_rate: float,
        weight_decay: float,
    ) -> None:
        self._muon = Muon(
            matrices, lr=muon_learning_rate, weight_decay=weight_decay, momentum=0.95, nesterov=True
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


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Sort trainable parameters into matrices inside layers (Muon) and all others (AdamW).

    A tied embedding and head is one parameter, and an embedding.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            inside = parameter.ndim == 2 and ".layers." in f".{name}"
            (matrices if inside else others).append(parameter)
    return matrices, others
