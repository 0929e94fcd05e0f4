"""Muon in the number format that the machine multiplies fast; several processes share its work.

torch's Muon makes its updates orthogonal in bfloat16 whatever the processor, and in every process
anew. In bfloat16 this one takes the very same steps.

Source: Jordan et al., Muon, https://kellerjordan.github.io/posts/muon/
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from training.distributed import share_work

# Of the quintic iteration p(x) = a x + b x^3 + c x^5, chosen by its authors for its slope at zero:
# after five rounds singular values lie between 0.7 and 1.2, which serves as well as 1.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
_LEAST_NORM = 1e-7


class Muon(torch.optim.Muon):
    """torch's Muon, but for the format and the place of the orthogonalisation.

    Every process keeps the momentum of all matrices, so that the state which one of them saves is
    whole.

    Args:
        parameters: matrices.
        dtype: of the orthogonalisation.
        settings: of torch's Muon: lr, weight_decay, momentum, nesterov.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, dtype: torch.dtype, **settings: Any
    ) -> None:
        super().__init__(parameters, **settings)
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters: list[torch.Tensor] = []
            gradients: list[torch.Tensor] = []
            momenta: list[torch.Tensor] = []
            self._init_group(group, parameters, gradients, momenta)
            for gradient, momentum in zip(gradients, momenta, strict=True):
                momentum.lerp_(gradient, 1 - group["momentum"])
            ahead = group["momentum"] if group["nesterov"] else 1.0
            updates = share_work(
                [
                    gradient.lerp(momentum, ahead)
                    for gradient, momentum in zip(gradients, momenta, strict=True)
                ],
                partial(orthogonalize, dtype=self._dtype),
                self._dtype,
            )
            for parameter, update in zip(parameters, updates, strict=True):
                rows, columns = parameter.shape
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                scale = math.sqrt(max(1, rows / columns))
                parameter.add_(update, alpha=-group["lr"] * scale)
        return loss


def orthogonalize(matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Bring all singular values of a matrix [M, N] near 1 and keep its singular vectors.

    Newton-Schulz iteration; its products are computed in, and the result has, the given format.
    """
    first, third, fifth = _COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.to(dtype)
    wide = wide.T if is_tall else wide
    wide = wide / wide.norm().clamp(min=_LEAST_NORM)
    for _ in range(_ROUNDS):
        gram = wide @ wide.T
        polynomial = torch.addmm(gram, gram, gram, beta=third, alpha=fifth)
        wide = torch.addmm(wide, polynomial, wide, beta=first)
    return wide.T if is_tall else wide
