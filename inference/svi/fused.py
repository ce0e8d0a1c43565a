"""The step of a fused optimizer, and the check of its gradients, without their Python."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

__all__ = ["AreFinite", "OptimizerStep", "flush_denormals", "is_finite", "is_observed"]

_MEANS = frozenset({"exp_avg", "momentum_buffer"})
_FLUSHED = (torch.float32, torch.float64, torch.bfloat16)
# Types that the joint check of gradients takes; that of CUDA compares in float32.
_CHECKED = {"cpu": (torch.float32, torch.float64, torch.bfloat16), "cuda": (torch.float32,)}


class OptimizerStep:
    """The effect of `optimizer.step()` on parameters and on the optimizer's state.

    For a fused Adam or AdamW it is one call of torch's kernel, in about two thirds of the time; the state stays in the
    optimizer's own format, and settings such as the learning rate are read in every step. Other optimizers, and those
    with hooks, are stepped as they are.

    Args:
        optimizer: The optimizer.

    Example:
        >>> import torch
        >>> from latentmix.inference.svi.fused import OptimizerStep
        >>> leaf = torch.ones(3, requires_grad=True)
        >>> step = OptimizerStep(torch.optim.Adam([leaf], lr=0.1, fused=True))
        >>> for _ in range(2):
        ...     leaf.grad = torch.ones(3)
        ...     step()
        >>> leaf.detach()
        tensor([0.8000, 0.8000, 0.8000])
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._known = type(optimizer) in (Adam, AdamW)
        self._kernels: list[_Kernel] = []

    def forget(self) -> None:
        """Look up the optimizer's state, groups and hooks in the next step, as something else may have changed them."""
        self._kernels = []

    def __call__(self, *, whole: bool = False) -> None:
        """Take a step.

        Args:
            whole: Whether all parameters have gradients; what the last such step has looked up is then used again.
        """
        kernels = (self._kernels if whole else []) or self._look_up()
        for kernel in kernels:
            kernel()
        if not kernels:
            self.optimizer.step()
        self._kernels = kernels if whole else []

    def _look_up(self) -> list[_Kernel]:
        """The calls for all groups with gradients; none where the optimizer is stepped as it is."""
        if not self._known or is_observed(self.optimizer):
            return []
        kernels = []
        for group in self.optimizer.param_groups:
            kernel = _Kernel.of(self.optimizer, group)
            if kernel is None:
                return []
            if kernel.leaves:
                kernels.append(kernel)
        return kernels


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite; the sum tells faster, unless it overflows.

    Args:
        tensor: The tensor.
    """
    total: Any = tensor.detach().sum().item()
    return math.isfinite(abs(total)) or bool(tensor.isfinite().all())


class AreFinite:
    """Whether all values of gradients are finite, in one call of torch's where they are dense, on one device.

    Example:
        >>> import torch
        >>> from latentmix.inference.svi.fused import AreFinite
        >>> are_finite, gradients = AreFinite(), [torch.ones(2), torch.ones(3)]
        >>> are_finite(gradients, whole=True)
        True
        >>> gradients[1][0] = torch.inf
        >>> are_finite(gradients, whole=True)
        False
    """

    def __init__(self) -> None:
        self._joint: _JointCheck | None = None

    def forget(self) -> None:
        """Look up types and layouts in the next check, as something else may have changed them."""
        self._joint = None

    def __call__(self, gradients: list[Tensor], *, whole: bool = False) -> bool:
        """Check gradients.

        Args:
            gradients: The gradients.
            whole: Whether all parameters have gradients; what the last such check has looked up is then used again.
        """
        if whole and self._joint is not None and not any(gradient.is_sparse for gradient in gradients):
            return self._joint(gradients)
        self._joint = _JointCheck.of(gradients) if whole else None
        return all(map(is_finite, gradients))


@dataclass(frozen=True)
class _JointCheck:
    """A call of the function by which torch's gradient scaler finds values that are not finite, with scale 1.

    Attributes:
        found: A scalar in float32 that the call sets to 1 where it finds one, else 0.
        scale: A scalar 1 in float32.
    """

    found: Tensor
    scale: Tensor

    @classmethod
    def of(cls, gradients: Sequence[Tensor]) -> _JointCheck | None:
        """The check of gradients like these; None where the function does not take them."""
        kinds = {(gradient.dtype, gradient.device) for gradient in gradients}
        if len(kinds) != 1:
            return None
        ((dtype, device),) = kinds
        dense = all(each.layout == torch.strided and each.is_contiguous() for each in gradients)
        if dtype not in _CHECKED.get(device.type, ()) or not dense or any(each.requires_grad for each in gradients):
            return None
        found = torch.zeros((), dtype=torch.float32, device=device)
        return cls(found, torch.ones_like(found))

    def __call__(self, gradients: list[Tensor]) -> bool:
        """Whether all values are finite; those that are stay as they are."""
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, self.found, self.scale)
        if not self.found.item():
            return True
        self.found.zero_()
        return False


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


@dataclass(frozen=True)
class _Kernel:
    """A call of torch's kernel for the leaves of a group that have a gradient.

    Attributes:
        group: The group, with the settings.
        leaves: The leaves.
        means: Their running means of gradients.
        squares: Those of squared gradients.
        steps: Their numbers of steps, views of `counts`.
        counts: These numbers as one tensor.
    """

    group: dict[str, Any]
    leaves: list[Tensor]
    means: list[Tensor]
    squares: list[Tensor]
    steps: list[Tensor]
    counts: Tensor

    @classmethod
    def of(cls, optimizer: Optimizer, group: dict[str, Any]) -> _Kernel | None:
        """The call for a group of an optimizer; None where the kernel does not fit."""
        if not group["fused"] or group["amsgrad"] or group["capturable"] or group["differentiable"]:
            return None
        if any(isinstance(value, Tensor) for value in (group["lr"], *group["betas"])):
            return None
        leaves = [leaf for leaf in group["params"] if leaf.grad is not None]
        states: list[Any] = [optimizer.state.get(leaf) for leaf in leaves]
        if not all(states) or len({(leaf.dtype, leaf.device) for leaf in leaves}) > 1:
            return None
        means, squares = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        counts, steps = _joined([state["step"] for state in states])
        for state, step in zip(states, steps, strict=True):
            state["step"] = step
        return cls(group, leaves, means, squares, steps, counts)

    @torch.no_grad()
    def __call__(self) -> None:
        self.counts.add_(1)
        group = self.group
        kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
        beta1, beta2 = group["betas"]
        kernel(
            self.leaves,
            [leaf.grad for leaf in self.leaves],  # type: ignore[misc]
            self.means,
            self.squares,
            [],
            self.steps,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=group["maximize"],
        )


def _joined(steps: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Numbers of steps as one tensor, of which they are views; those that are so already stay."""
    base = steps[0]._base if steps else None
    if base is not None and base.shape == (len(steps),):
        places = [(step._base is base, step.dim(), step.storage_offset()) for step in steps]
        if places == [(True, 0, base.storage_offset() + index) for index in range(len(steps))]:
            return base, steps
    counts = torch.stack(steps) if steps else torch.zeros(0)
    return counts, list(counts.unbind())


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
