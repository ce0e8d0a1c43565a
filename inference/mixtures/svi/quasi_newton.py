"""A quasi-Newton optimizer for objectives without noise, optionally in a given metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, final

import torch
from torch import Tensor

__all__ = ["Metric", "MetricPoint", "QuasiNewton"]


class MetricPoint(Protocol):
    """A metric at one point."""

    def __call__(self, vector: Tensor, /) -> Tensor:
        """The inverse metric times a flat vector."""

    def step(self, gradient: Tensor, rate: float, /) -> Tensor | None:
        """The flat move of a step of that rate against the gradient, along the geometry; `None` if there is none."""


class Metric(Protocol):
    """A metric on the parameters."""

    def __call__(self, leaves: Sequence[Tensor], /) -> MetricPoint:
        """The metric at the leaves."""


@final
class QuasiNewton(torch.optim.Optimizer):
    """Limited-memory BFGS with steps of bounded length and one gradient a step.

    The two-loop recursion (Nocedal and Wright, 2006, algorithm 7.4), each loop as one triangular system (Byrd, Nocedal
    and Schnabel, *Representations of quasi-Newton matrices*, 1994), gives the direction; the step is `lr` times
    it, shortened so that no parameter moves by more than `max_step`. There is no line search, hence no closure
    and no second evaluation: a bad step shows in the next gradient, and pairs without positive curvature are
    skipped. Gradients must not be noisy.

    With a `metric`, the recursion starts from its inverse at the present point, and the first `warmup` steps are
    taken in the metric alone, along its retraction; with the Fisher information these are natural-gradient steps
    (Amari, 1998; Hoffman et al., 2013). The warm-up ends early once such steps promise little.

    Args:
        params: Leaves of one dtype and device.
        lr: Fraction of the quasi-Newton step that is taken.
        memory: Number of pairs of steps and changes of the gradient that are kept.
        max_step: Longest move of a parameter in one step.
        metric: The metric.
        warmup: Greatest number of steps in the metric before curvature is learned.
        settled: Promised gain, gradient times move, below which the warm-up ends early.

    Raises:
        ValueError: If an argument is not positive, or there is a warm-up without a metric.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.svi.quasi_newton import QuasiNewton
        >>> point = torch.tensor([3.0, -2.0], requires_grad=True)
        >>> optimizer = QuasiNewton([point], max_step=1.0)
        >>> for _ in range(30):
        ...     optimizer.zero_grad()
        ...     (point * point * torch.tensor([1.0, 10.0])).sum().backward()
        ...     optimizer.step()
        >>> bool(point.detach().abs().max() < 1e-4)
        True
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float = 1.0,
        memory: int = 20,
        max_step: float = 0.5,
        metric: Metric | None = None,
        warmup: int = 0,
        settled: float = 0.0,
    ) -> None:
        if lr <= 0 or memory < 1 or max_step <= 0:
            raise ValueError(f"Expected lr, memory and max_step to be positive; got {lr}, {memory} and {max_step}.")
        if warmup < 0 or (warmup and metric is None):
            raise ValueError(f"Expected a metric for a warm-up, and warmup >= 0; got {metric} and {warmup}.")
        super().__init__(
            params, {"lr": lr, "memory": memory, "max_step": max_step, "warmup": warmup, "settled": settled}
        )
        self._metric = metric

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step along the quasi-Newton direction; `closure` must be left out."""
        if closure is not None:
            raise ValueError("Expected no closure; got one.")
        for group in self.param_groups:
            leaves = list(group["params"])
            if any(leaf.grad is not None for leaf in leaves):
                for leaf in leaves:  # the weight of a mixture of one component has no gradient
                    leaf.grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
                self._step(group, leaves)

    def _step(self, group: dict[str, Any], leaves: list[Tensor]) -> None:
        gradient = torch.cat([leaf.grad.reshape(-1) for leaf in leaves if leaf.grad is not None])
        state = self.state[leaves[0]]
        if not state:
            empty = gradient.new_zeros(0, len(gradient))
            state.update(moves=empty, changes=empty, taken=0, warm=group["warmup"])
        elif state["taken"] > state["warm"]:
            change = gradient - state["gradient"]
            if change @ state["move"] > 1e-12 * change.norm() * state["move"].norm():
                state["moves"] = torch.cat([state["moves"], state["move"][None]])[-group["memory"] :]
                state["changes"] = torch.cat([state["changes"], change[None]])[-group["memory"] :]
        point = None if self._metric is None else self._metric(leaves)
        move = None
        if point is not None and state["taken"] < state["warm"]:
            move = point.step(gradient, group["lr"])
            if move is not None and -(gradient @ move) < group["settled"]:
                state["warm"] = state["taken"]
        if move is None:
            move = -group["lr"] * _direction(gradient, state["moves"], state["changes"], point)
            move = move * (group["max_step"] / move.abs().max().clamp_min(group["max_step"]))
        state["gradient"], state["move"] = gradient, move
        state["taken"] += 1
        for leaf, part in zip(leaves, move.split([leaf.numel() for leaf in leaves]), strict=True):
            leaf.add_(part.view_as(leaf))


def _direction(gradient: Tensor, moves: Tensor, changes: Tensor, inverse: Callable[[Tensor], Tensor] | None) -> Tensor:
    """The inverse Hessian times the gradient; the coefficients of each loop solve a triangular system."""
    products = (moves @ changes.mT).triu()
    curvature = products.diagonal()
    first = torch.linalg.solve_triangular(products, (moves @ gradient)[:, None], upper=True)[:, 0]
    direction = gradient - first @ changes
    if inverse is not None:
        direction = inverse(direction)
    elif len(moves):
        direction *= curvature[-1] / changes[-1].square().sum()
    else:
        direction *= 0.1 / gradient.norm().clamp_min(0.1)
    rest = curvature * first - changes @ direction
    second = torch.linalg.solve_triangular(products.mT, rest[:, None], upper=False)[:, 0]
    return direction + second @ moves
