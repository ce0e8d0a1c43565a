"""Functions of torch that are slow over data, in a graph as others that compile into one loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from latentmix.models.logistic import log1p_exp

__all__ = ["FAST_FUNCTIONS"]

_TYPES = {torch.float32, torch.float64}


def _floating(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of tensors that are all in float32, or all in float64; others keep torch's own."""

    def decomposed(*args: Any, **kwargs: Any) -> Any:
        types = {each.dtype for each in args if isinstance(each, Tensor)}
        return function(*args, **kwargs) if len(types) == 1 and types <= _TYPES else NotImplemented

    return decomposed


def _cross_entropy(
    logits: Tensor, targets: Tensor, weight: Tensor | None = None, pos_weight: Tensor | None = None, reduction: int = 1
) -> Tensor:
    if weight is not None or pos_weight is not None or reduction != 0:
        return NotImplemented
    return logits.clamp_min(0) - logits * targets + log1p_exp(logits)


def _softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    return NotImplemented if beta != 1 else torch.where(x > threshold, x, x.clamp_min(0) + log1p_exp(x))


def _logsigmoid(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.clamp_max(0) - log1p_exp(x), x.new_empty(0)  # the second is for a gradient by torch


def _logsigmoid_backward(gradient: Tensor, x: Tensor, _: Tensor) -> Tensor:
    return gradient * torch.sigmoid(-x)


def _log1p(x: Tensor) -> Tensor:
    u = 1 + x
    return torch.log(u) + torch.where((u > 0) & (u < torch.inf), (x - (u - 1)) / u, 0.0)


FAST_FUNCTIONS: Mapping[Any, Callable[..., Any]] = {
    torch.ops.aten.binary_cross_entropy_with_logits.default: _floating(_cross_entropy),
    torch.ops.aten.softplus.default: _floating(_softplus),
    torch.ops.aten.log_sigmoid_forward.default: _floating(_logsigmoid),
    torch.ops.aten.log_sigmoid_backward.default: _floating(_logsigmoid_backward),
    torch.ops.aten.log1p.default: _floating(_log1p),
}
"""Decompositions for `make_fx`, as of Pyro's `Bernoulli`; values and gradients agree to few roundings.

That of log1p is by Higham, *Accuracy and stability of numerical algorithms*, 2002, section 1.14.1.
"""
