"""A quasi-Newton optimizer for objectives without noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor

__all__ = ["QuasiNewton"]


@final
class QuasiNewton(torch.optim.Optimizer):
    """Limited-memory BFGS with steps of bounded length and one gradient a step.

    The two-loop recursion (Nocedal and Wright, 2006, algorithm 7.4) gives the direction; the step is `lr` times
    it, shortened so that no parameter moves by more than `max_step`. There is no line search, hence no closure
    and no second evaluation: a bad step shows in the next gradient, and pairs without positive curvature are left
    out. For full-batch objectives whose unconstrained parameters are of order one, such as enumerated SVI of a
    mixture of standardised data under a point-mass guide; not for noisy gradients.

    Args:
        params: Leaves of one dtype and device.
        lr: Share of the quasi-Newton step that is taken.
        memory: Pairs of steps and changes of the gradient that are kept.
        max_step: Longest move of a parameter in one step.

    Raises:
        ValueError: If an argument is not positive.

    Example:
        >>> point = torch.tensor([3.0, -2.0], requires_grad=True)
        >>> optimizer = QuasiNewton([point], max_step=1.0)
        >>> for _ in range(30):
        ...     optimizer.zero_grad()
        ...     (point * point * torch.tensor([1.0, 10.0])).sum().backward()
        ...     optimizer.step()
        >>> bool(point.detach().abs().max() < 1e-4)
        True
    """

    def __init__(self, params: Iterable[Tensor], *, lr: float = 1.0, memory: int = 20, max_step: float = 0.2) -> None:
        if lr <= 0 or memory < 1 or max_step <= 0:
            raise ValueError(f"Expected lr, memory and max_step to be positive; got {lr}, {memory} and {max_step}.")
        super().__init__(params, {"lr": lr, "memory": memory, "max_step": max_step})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step along the quasi-Newton direction; `closure` must be left out."""
        if closure is not None:
            raise ValueError("Expected no closure; got one.")
        for group in self.param_groups:
            leaves = [leaf for leaf in group["params"] if leaf.grad is not None]
            if leaves:
                self._step(group, leaves)

    def _step(self, group: dict[str, Any], leaves: list[Tensor]) -> None:
        gradient = torch.cat([leaf.grad.reshape(-1) for leaf in leaves if leaf.grad is not None])
        state = self.state[leaves[0]]
        if not state:
            empty = gradient.new_zeros(0, len(gradient))
            state.update(moves=empty, changes=empty)
            direction = gradient * (0.1 / gradient.norm().clamp_min(0.1))
        else:
            change = gradient - state["gradient"]
            if change @ state["move"] > 1e-10 * state["move"].square().sum():
                keep = 1 - group["memory"] if group["memory"] > 1 else len(state["moves"])
                state["moves"] = torch.cat([state["moves"][keep:], state["move"][None]])
                state["changes"] = torch.cat([state["changes"][keep:], change[None]])
            direction = _inverse_hessian(gradient, state["moves"], state["changes"])
        move = -group["lr"] * direction
        move *= (group["max_step"] / move.abs().max().clamp_min(group["max_step"])).clamp_max(1.0)
        state["gradient"], state["move"] = gradient, move
        for leaf, part in zip(leaves, move.split([leaf.numel() for leaf in leaves]), strict=True):
            leaf.add_(part.view_as(leaf))


def _inverse_hessian(gradient: Tensor, moves: Tensor, changes: Tensor) -> Tensor:
    if not len(moves):
        return gradient * (0.1 / gradient.norm().clamp_min(0.1))
    curvature = (moves * changes).sum(1)
    direction = gradient.clone()
    shares: list[Tensor] = []
    for move, change, scale in zip(reversed(moves), reversed(changes), reversed(curvature), strict=True):
        shares.append(move @ direction / scale)
        direction -= shares[-1] * change
    direction *= curvature[-1] / changes[-1].square().sum()
    for move, change, scale, share in zip(moves, changes, curvature, reversed(shares), strict=True):
        direction += (share - change @ direction / scale) * move
    return direction
