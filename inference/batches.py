"""Minibatches: tensors that are sliced together on their first dimension."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["Batch", "Transform", "as_batch", "modules_of", "transformed"]

Batch = tuple[Tensor, ...]
Transform = Callable[..., Tensor | Sequence[Tensor]]


def as_batch(data: Tensor | Sequence[Tensor]) -> Batch:
    """Data as a tuple of tensors of one length.

    Raises:
        ValueError: If there is no tensor or datum, or the lengths differ.
    """
    tensors = (data,) if isinstance(data, Tensor) else tuple(data)
    if not tensors or any(not isinstance(tensor, Tensor) or tensor.dim() == 0 for tensor in tensors):
        raise ValueError(
            f"Expected a tensor, or a tuple of tensors, with data on the first dimension; got {type(data).__name__}."
        )
    lengths = {len(tensor) for tensor in tensors}
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(f"Expected tensors of one length, with at least one datum; got lengths {sorted(lengths)}.")
    return tensors


def transformed(batch: Batch, transform: Transform | None) -> Batch:
    """A minibatch after `transform`, as a tuple."""
    if transform is None:
        return batch
    result = transform(*batch)
    return (result,) if isinstance(result, Tensor) else tuple(result)


def modules_of(*functions: Callable[..., Any]) -> list[nn.Module]:
    """The modules that Pyro callables belong to: themselves, or the objects whose methods they are."""
    found: dict[int, nn.Module] = {}
    for function in functions:
        while isinstance(function, functools.partial):
            function = function.func
        owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
        if isinstance(owner, nn.Module):
            found[id(owner)] = owner
    return list(found.values())
