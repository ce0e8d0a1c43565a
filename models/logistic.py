"""Logarithms of the logistic function and of 1 - exp(-y), exact to rounding, and fast where they run over pixels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn import functional

__all__ = [
    "bernoulli_log_mass",
    "log1p_exp",
    "log_one_minus_exp",
    "logsigmoid",
    "one_minus_exp",
    "polynomial",
    "softplus",
    "traced",
]

# Above it, log(1 + exp(x)) is x in float64 too; below it, exp(x) overflows in no type that torch computes in.
_LINEAR = 40.0

# Series within a rounding of float32, and of float64: (2 artanh(w) - 2 w) / w^3 in w^2 up to 1/9, and
# (1 - exp(-y)) / y in y up to 1.
_ARTANH = {size: tuple(2 / (2 * k + 3) for k in range(n)) for size, n in ((4, 6), (8, 15))}
_EXPONENTIAL = {size: tuple((-1) ** k / math.factorial(k + 1) for k in range(n)) for size, n in ((4, 11), (8, 18))}


def traced() -> bool:
    """Whether operations are recorded, by `make_fx` or `torch.compile`, to be compiled into one loop.

    There an operation costs next to nothing and `log1p` or `expm1` a third of a likelihood's time: series take their
    place. Otherwise each operation is a pass over memory, and torch's own functions are the fastest.
    """
    return (torch.compiler.is_compiling() or get_proxy_mode() is not None) and not _transformed()


def _transformed() -> bool:
    """Whether `torch.vmap` or another transformation of functions is active, which takes torch's own operators."""
    return torch._C._are_functorch_transforms_active()


def softplus(x: Tensor) -> Tensor:
    """Log(1 + exp(x)), with a relative error of few roundings everywhere; torch's default is linear above 20.

    Args:
        x: A tensor of any shape.

    Example:
        >>> import torch
        >>> from latentmix.models.logistic import softplus
        >>> softplus(torch.tensor([0.0, 30.0]))
        tensor([ 0.6931, 30.0000])
    """
    if not traced():
        return functional.softplus(x.contiguous(), threshold=_LINEAR)  # its loop over strided values is scalar
    value: Tensor = _Softplus.apply(_wide(x))
    return value.to(x.dtype)


def logsigmoid(x: Tensor) -> Tensor:
    """Log of the logistic function, -softplus(-x).

    Args:
        x: A tensor of any shape.

    Example:
        >>> import torch
        >>> from latentmix.models.logistic import logsigmoid
        >>> logsigmoid(torch.tensor([0.0, -30.0]))
        tensor([ -0.6931, -30.0000])
    """
    return -softplus(-x) if traced() else functional.logsigmoid(x)


def bernoulli_log_mass(logits: Tensor, targets: Tensor) -> Tensor:
    r"""The log-mass :math:`l t - \max(l, 0) - \log(1 + e^{-|l|})` of a Bernoulli distribution.

    Its error is two roundings of the larger of 1 and its size, where `binary_cross_entropy_with_logits` has one of l.
    The gradient is :math:`t - \sigma(l)`.

    Args:
        logits: The logits l, a tensor of floating-point numbers.
        targets: The values t, of any type, between 0 and 1; they broadcast with the logits.

    Returns:
        A tensor of their common shape and type.

    Example:
        >>> import torch
        >>> from latentmix.models.logistic import bernoulli_log_mass
        >>> bernoulli_log_mass(torch.tensor([0.0, 20.0]), torch.tensor([1.0, 0.0]))
        tensor([ -0.6931, -20.0000])
    """
    dtype = logits.dtype
    if targets.dtype != dtype:
        dtype = torch.promote_types(dtype, targets.dtype)
        logits, targets = logits.to(dtype), targets.to(dtype)
    if targets.shape != logits.shape:
        logits, targets = torch.broadcast_tensors(logits, targets)
    if _transformed():
        return -functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    value: Tensor = _BernoulliLogMass.apply(_wide(logits), _wide(targets))
    return value if value.dtype == dtype or torch.is_autocast_enabled(logits.device.type) else value.to(dtype)


def one_minus_exp(y: Tensor) -> Tensor:
    """1 - exp(-y) of numbers from 0 on, without cancellation.

    Args:
        y: A tensor of any shape.

    Example:
        >>> import torch
        >>> from latentmix.models.logistic import one_minus_exp
        >>> one_minus_exp(torch.tensor([1e-9, 1.0]))
        tensor([1.0000e-09, 6.3212e-01])
    """
    if not traced():
        return -torch.expm1(-y)
    # The derivative of the branch that is not taken is finite, too.
    small = y.clamp_max(1)
    return torch.where(y < 1, small * polynomial(small, _EXPONENTIAL), 1 - torch.exp(-y))


def log_one_minus_exp(y: Tensor) -> Tensor:
    """Log(1 - exp(-y)) of positive numbers, without cancellation at small ones.

    Args:
        y: A tensor of any shape.

    Example:
        >>> import torch
        >>> from latentmix.models.logistic import log_one_minus_exp
        >>> log_one_minus_exp(torch.tensor([1e-30, 1.0]))
        tensor([-69.0776,  -0.4587])
    """
    if not traced():
        return one_minus_exp(y).log()
    value: Tensor = _LogOneMinusExp.apply(_wide(y))
    return value.to(y.dtype)


def polynomial(x: Tensor, coefficients: dict[int, tuple[float, ...]]) -> Tensor:
    """A polynomial by Horner's rule.

    Args:
        x: A tensor of any shape.
        coefficients: Two or more coefficients, from that of degree 0 on: for 8 bytes a number, and for 4 or fewer.

    Example:
        >>> import torch
        >>> from latentmix.models.logistic import polynomial
        >>> polynomial(torch.tensor([2.0]), {4: (1.0, 1.0, 3.0), 8: (1.0, 1.0, 3.0)})
        tensor([15.])
    """
    *others, highest = coefficients[8 if x.dtype == torch.float64 else 4]
    value = x * highest + others[-1]
    for coefficient in reversed(others[:-1]):
        value = value * x + coefficient
    return value


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def log1p_exp(x: Tensor) -> Tensor:
    """Log(1 + exp(-abs(x))) by a series, without its gradient.

    With e = exp(-abs(x)) and w = e / (2 + e) it is 2 artanh(w) = 2 w + w^3 P(w^2), where 2 w = e - e w: so its error
    is that of e and one rounding.

    Args:
        x: A tensor of any shape, in float32 or float64.

    Example:
        >>> import torch
        >>> from latentmix.models.logistic import log1p_exp
        >>> log1p_exp(torch.tensor([0.0, -20.0]))
        tensor([6.9315e-01, 2.0612e-09])
    """
    e = torch.exp(-x.abs())
    w = e / (2 + e)
    square = w * w
    return e - w * (e - square * polynomial(square, _ARTANH))


def _sigmoid(x: Tensor) -> Tensor:
    if not traced() or torch.is_grad_enabled():
        return x.sigmoid()
    e = torch.exp(-x.abs())  # compiled once, with that of `log1p_exp`
    above = 1 / (1 + e)
    return torch.where(x > 0, above, e * above)


class _Softplus(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp_min(0) + log1p_exp(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0] * _sigmoid(x)


class _BernoulliLogMass(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        ctx.save_for_backward(logits, targets)
        ctx.save_for_forward(logits, targets)
        if traced():
            return logits * targets - logits.clamp_min(0) - log1p_exp(logits)
        # The difference of the first two terms is exact for 0 and 1.
        linear = logits.clamp_min(0).addcmul_(logits, targets, value=-1)
        return logits.abs().neg_().sigmoid_().neg_().log1p_().sub_(linear)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        logits, targets = ctx.saved_tensors
        residual = None
        if ctx.needs_input_grad[0]:
            residual = torch.sub(targets, _sigmoid(logits))
            residual = residual * gradients[0] if torch.is_grad_enabled() else residual.mul_(gradients[0])
        return residual, logits * gradients[0] if ctx.needs_input_grad[1] else None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        logits, targets = ctx.saved_tensors
        slopes = (targets - logits.sigmoid(), logits)
        return sum(slope * tangent for slope, tangent in zip(slopes, tangents, strict=True) if tangent is not None)


class _LogOneMinusExp(Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        return one_minus_exp(y).log()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return gradients[0] * torch.exp(-y) / one_minus_exp(y)
