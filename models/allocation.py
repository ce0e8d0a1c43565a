"""A bound on the memory that constructors of networks allocate, checked before it is allocated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["AllocationError", "BoundedAllocation"]

_SIZED = {
    *("empty", "zeros", "ones", "full", "rand", "randn", "new_empty", "new_zeros", "new_ones", "new_full"),
    *("repeat", "expand", "empty_strided", "new_empty_strided"),
}
MOST_TENSORS = 100_000


class AllocationError(ValueError):
    """More memory was asked for than a `BoundedAllocation` allows."""


class BoundedAllocation(TorchFunctionMode):
    """A block in which the tensors that torch's constructors make take a given number of bytes at most.

    A tensor that would exceed it is refused before it is allocated. The block counts what it makes, whether it is kept
    or not, so that the bound is on the sum.

    Args:
        most: Most bytes in all.
        what: What is built, for the message.
        remedy: What to do, for the message.

    Raises:
        AllocationError: From within the block.

    Example:
        >>> from torch import nn
        >>> from latentmix.models.allocation import BoundedAllocation
        >>> with BoundedAllocation(2**20, "a network", "take a smaller one"):
        ...     nn.Linear(1000, 1_000_000_000)
        Traceback (most recent call last):
            ...
        latentmix.models.allocation.AllocationError: Expected a network of at most 0.000977 GiB; got one of 3.73e+03 \
GiB or more: take a smaller one.
    """

    def __init__(self, most: float, what: str, remedy: str) -> None:
        super().__init__()
        self.most, self.what, self.remedy = most, what, remedy
        self.bytes, self.tensors = 0, 0

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count what a function will allocate, then call it."""
        options = dict(kwargs or {})
        elements = _elements(getattr(func, "__name__", ""), args, options)
        if elements:
            dtype = options.get("dtype")
            width = dtype.itemsize if isinstance(dtype, torch.dtype) else torch.get_default_dtype().itemsize
            self.bytes += elements * width
            self.tensors += 1
            if self.bytes > self.most:
                raise AllocationError(
                    f"Expected {self.what} of at most {self.most / 2**30:.3g} GiB; got one of "
                    f"{self.bytes / 2**30:.3g} GiB or more: {self.remedy}."
                )
            if self.tensors > MOST_TENSORS:
                raise AllocationError(
                    f"Expected {self.what} of at most {MOST_TENSORS:,} tensors; got more: {self.remedy}."
                )
        return func(*args, **options)


def _elements(name: str, args: tuple[Any, ...], options: Mapping[str, Any]) -> int:
    """The number of elements that a function is about to allocate; 0 for one that is not counted."""
    if name in _SIZED:
        given = [value for value in args if not isinstance(value, torch.Tensor)]
        sizes = options.get("size", given[0] if given and isinstance(given[0], list | tuple) else given)
        times = args[0].numel() if name == "repeat" else 1
        return _product(sizes) * times
    if name == "randint":
        return _product(options.get("size", next((value for value in args if isinstance(value, list | tuple)), [0])))
    numbers = [int(value) for value in args if isinstance(value, int | float)]
    if name == "eye" and numbers:
        return numbers[0] * (numbers[1] if len(numbers) > 1 else numbers[0])
    if name == "arange" and numbers:
        return abs(numbers[1] - numbers[0] if len(numbers) > 1 else numbers[0])
    if name in ("linspace", "logspace") and len(numbers) > 2:
        return numbers[2]
    return 0


def _product(sizes: Any) -> int:
    return prod(size if isinstance(size, int) and size > 0 else 1 for size in sizes)
