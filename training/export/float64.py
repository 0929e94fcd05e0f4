"""A forward pass in float64 of a model whose weights stay in float32.

transformers computes norms, softmax and rotary angles in float32 whatever the dtype of the model,
so that a model in float64 is no float64 reference. Here every function of torch that is asked for
float32 gives float64 instead, and a module's own weights are widened while it computes and no
longer: a large model needs room in float64 for its largest matrix alone.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

_MAX_HELD_BYTES = 4 << 30  # of parameters in float64, beside those in float32

Wide = Mapping[nn.Parameter, Tensor]


@torch.no_grad()
def float64_logits(
    model: PreTrainedModel, token_ids: list[int], held: Wide | None = None
) -> Tensor:
    """Give the logits of one row, (tokens, vocabulary), computed in float64 from end to end.

    Args:
        model: float32, in evaluation mode; as it was, afterwards.
        token_ids: of the row.
        held: the model's parameters in float64, by `hold_wide`; absent ones are widened as they
            are needed.
    """
    narrow = {parameter: parameter.data for parameter in held or {}}
    try:
        for parameter, wide in (held or {}).items():
            parameter.data = wide
        with _widened(model), _Float64():
            return model(torch.tensor([token_ids])).logits[0]
    finally:
        for parameter, data in narrow.items():
            parameter.data = data


@torch.no_grad()
def hold_wide(model: PreTrainedModel) -> Wide:
    """Widen all parameters once, for several rows; none where they would take too much memory."""
    parameters = list(model.parameters())
    if 8 * sum(parameter.numel() for parameter in parameters) > _MAX_HELD_BYTES:
        return {}
    return {parameter: parameter.data.double() for parameter in parameters}


class _Float64(TorchFunctionMode):
    """Puts float64 in the place of float32 in every call of torch."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        named = {name: _wider(value) for name, value in (kwargs or {}).items()}
        return func(*map(_wider, args), **named)


def _wider(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


@contextmanager
def _widened(model: PreTrainedModel) -> Iterator[None]:
    """Hold each module's own parameters in float64 while the module computes."""
    narrow: dict[nn.Parameter, Tensor] = {}

    def widen(module: nn.Module, _: Any) -> None:
        for parameter in module.parameters(recurse=False):
            narrow[parameter] = parameter.data
            parameter.data = parameter.data.double()

    def restore(module: nn.Module, *_: Any) -> None:
        for parameter in module.parameters(recurse=False):
            if parameter in narrow:
                parameter.data = narrow.pop(parameter)

    handles = []
    for module in model.modules():
        if module._parameters:
            handles += [
                module.register_forward_pre_hook(widen),
                module.register_forward_hook(restore, always_call=True),
            ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
