"""Linear layers whose products run on oneDNN where the BLAS of torch is slow."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

__all__ = ["Linear", "is_plain", "is_slow", "onednn_product"]

# Floating-point operations of a product from which oneDNN is faster than MKL on AMD's processors, by torch's name of
# their vector units, and of one whose first factor is laid out by columns, as in the gradient of a weight. MKL has no
# kernels for their AVX2 (75 against 180 GFLOP/s a core); with AVX-512 oneDNN takes 0.9 of the time, by columns 1.1.
# A call of oneDNN costs 12 microseconds, one of MKL 2.
_FROM = {"AVX2": (4e6, 4e6), "AVX512": (6e7, math.inf)}

_TYPES = (Tensor, nn.Parameter)


def is_slow(x: Tensor, columns: int) -> bool:
    """Whether the BLAS of torch is the slower one for a float32 product on the CPU.

    Args:
        x: The first factor, a matrix.
        columns: Columns of the second factor.
    """
    by_columns = x.stride(0) < x.stride(1)
    return 0.0 < 2.0 * x.numel() * columns >= _least()[by_columns]


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether tensors are of one type and on the CPU, seen by no transformation, compiler or automatic precision.

    Args:
        tensors: An input and weights; None for those that a layer lacks.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    return (
        not torch.compiler.is_compiling()
        and all(
            type(tensor) in _TYPES and tensor.dtype == given[0].dtype and tensor.device.type == "cpu"
            for tensor in given
        )
        and torch._C._functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
        and not torch.is_autocast_enabled("cpu")
        and torch._C._get_tracing_state() is None
    )


def onednn_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product `x @ weight.T + bias` by oneDNN, without gradients.

    Args:
        x: An `n x d` tensor, float32, on the CPU, with `d > 0`.
        weight: A `k x d` tensor.
        bias: A tensor of length `k`, or None.
    """
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


class Linear(nn.Linear):
    """A linear layer; its products run on oneDNN where `is_slow` says so, with the same results up to rounding.

    Args:
        in_features: Length of the input.
        out_features: Length of the output.

    Example:
        >>> import torch
        >>> from latentmix.models.products import Linear
        >>> Linear(3, 5)(torch.zeros(2, 3)).shape
        torch.Size([2, 5])
    """

    def forward(self, input: Tensor) -> Tensor:
        """The products, an `n x out_features` tensor for an `n x in_features` one."""
        if self._is_slow(input):
            product: Tensor = _Linear.apply(input, self.weight, self.bias)
            return product
        return functional.linear(input, self.weight, self.bias)

    def _is_slow(self, input: Tensor) -> bool:
        return (
            is_plain(input, self.weight, self.bias)
            and input.dim() == 2
            and input.dtype == torch.float32
            and is_slow(input, len(self.weight))
            and not torch._C._len_torch_function_stack()
            and not torch._C._len_torch_dispatch_stack()
        )


class _Linear(torch.autograd.Function):
    """A linear map with the gradients that oneDNN's operator lacks, which can be differentiated in turn."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn_product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _product(gradient, weight) if needs_x else None,
            _product(gradient.t(), x) if needs_weight else None,
            gradient.sum(0) if needs_bias else None,
        )


def _product(x: Tensor, y: Tensor) -> Tensor:
    """The product `x @ y`, which can be differentiated."""
    product: Tensor = _Linear.apply(x, y.t(), None) if is_slow(x, y.shape[1]) else x @ y
    return product


_NONE = (math.inf, math.inf)


@functools.cache
def _least() -> tuple[float, float]:
    """Operations of the smallest product that oneDNN takes over, and of one by columns; infinite for none."""
    least = _FROM.get(torch.backends.cpu.get_cpu_capability(), _NONE)
    if not (_has_amd() and torch.backends.mkl.is_available() and torch._C._has_mkldnn):
        return _NONE
    try:
        ones = torch.ones(2, 3)
        right = torch.equal(onednn_product(ones, ones, torch.ones(2)), torch.full((2, 2), 4.0))
    except (AttributeError, RuntimeError):  # of a torch without the operator, or with another one
        return _NONE
    return least if right else _NONE


def _has_amd() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # another system
        return False
