"""The step of a fused optimizer without its Python."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

__all__ = ["flush_denormals", "fused_step", "is_observed"]

_MEANS = frozenset({"exp_avg", "momentum_buffer"})
_FLUSHED = (torch.float32, torch.float64, torch.bfloat16)


def fused_step(optimizer: Optimizer) -> Callable[[], None]:
    """A function with the effect of `optimizer.step()` on parameters and on the optimizer's state.

    For a fused Adam or AdamW it is one call of torch's kernel, in about two thirds of the time; the state stays in the
    optimizer's own format, and settings such as the learning rate are read in every step. Other optimizers, and those
    with hooks, are stepped as they are.

    Args:
        optimizer: The optimizer.

    Example:
        >>> import torch
        >>> from latentmix.inference.svi.fused import fused_step
        >>> leaf = torch.ones(3, requires_grad=True)
        >>> step = fused_step(torch.optim.Adam([leaf], lr=0.1, fused=True))
        >>> for _ in range(2):
        ...     leaf.grad = torch.ones(3)
        ...     step()
        >>> leaf.detach()
        tensor([0.8000, 0.8000, 0.8000])
    """
    if type(optimizer) not in (Adam, AdamW):
        return optimizer.step
    counts: defaultdict[int, _Counts] = defaultdict(_Counts)

    def step() -> None:
        calls = [_arguments(optimizer, group) for group in optimizer.param_groups]
        if any(call is None for call in calls) or is_observed(optimizer):
            optimizer.step()
            return
        for group, call in enumerate(calls):
            if call is not None and call[0]:
                _update(*call, counts[group])

    return step


@torch.no_grad()
def flush_denormals(optimizer: Optimizer) -> None:
    """Set denormal numbers, those below the smallest normal one, to zero in running means of gradients.

    The mean of a gradient that has become zero, as that of a unit which is never active any more, decays to such
    numbers and stays there, and arithmetic with them takes several times as long. In float16, whose smallest normal
    number is 6e-5, they stay.

    Args:
        optimizer: The optimizer.

    Example:
        >>> import torch
        >>> from latentmix.inference.svi.fused import flush_denormals
        >>> leaf = torch.ones(2, requires_grad=True)
        >>> optimizer = torch.optim.SGD([leaf], lr=0.1, momentum=0.9)
        >>> optimizer.state[leaf]["momentum_buffer"] = torch.tensor([1e-40, 0.5])
        >>> flush_denormals(optimizer)
        >>> optimizer.state[leaf]["momentum_buffer"]
        tensor([0.0000, 0.5000])
    """
    for state in optimizer.state.values():
        for name in _MEANS.intersection(state):
            mean = state[name]
            if isinstance(mean, Tensor) and mean.dtype in _FLUSHED and not mean.is_sparse:
                mean.masked_fill_(mean.abs() < torch.finfo(mean.dtype).tiny, 0.0)


class _Counts:
    """The numbers of steps of leaves as one tensor, of which those in the optimizer's state are views."""

    def __init__(self) -> None:
        self._all = torch.zeros(0)
        self._views: list[Tensor] = []

    def advanced(self, states: list[Any]) -> list[Tensor]:
        """The numbers, after one step more."""
        if len(states) != len(self._views) or any(
            state["step"] is not view for state, view in zip(states, self._views, strict=True)
        ):
            self._all = torch.stack([state["step"] for state in states])
            self._views = list(self._all.unbind())
            for state, view in zip(states, self._views, strict=True):
                state["step"] = view
        self._all.add_(1)
        return self._views


def _arguments(optimizer: Optimizer, group: dict[str, Any]) -> tuple[list[Tensor], list[Any], dict[str, Any]] | None:
    """Parameters of a group with a gradient, their states and its settings; None where the kernel does not fit."""
    if not group["fused"] or group["amsgrad"] or group["capturable"] or group["differentiable"]:
        return None
    if any(isinstance(value, Tensor) for value in (group["lr"], *group["betas"])):
        return None
    leaves = [leaf for leaf in group["params"] if leaf.grad is not None]
    states = [optimizer.state.get(leaf) for leaf in leaves]
    if not all(states) or len({(leaf.dtype, leaf.device) for leaf in leaves}) > 1:
        return None
    return leaves, states, group


@torch.no_grad()
def _update(leaves: list[Tensor], states: list[Any], group: dict[str, Any], count: _Counts) -> None:
    steps = count.advanced(states)
    kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    beta1, beta2 = group["betas"]
    kernel(
        leaves,
        [leaf.grad for leaf in leaves if leaf.grad is not None],
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        steps,
        lr=group["lr"],
        beta1=beta1,
        beta2=beta2,
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=group["maximize"],
    )


def is_observed(optimizer: Optimizer) -> bool:
    """Whether hooks or a replaced `step` see the steps; that of a schedule only notes that there was one.

    Args:
        optimizer: The optimizer.
    """
    hooks = (
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
        _global_optimizer_pre_hooks,
        _global_optimizer_post_hooks,
    )
    replaced = vars(optimizer).get("step")
    return any(hooks) or (replaced is not None and not hasattr(replaced, "_wrapped_by_lr_sched"))
