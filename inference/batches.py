"""Minibatches: tensors that are sliced together on their first dimension."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from latentmix.inference.effects import ordinary

__all__ = ["Batch", "Transform", "as_batch", "transformed"]

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
    return tuple(map(ordinary, tensors))


def transformed(batch: Batch, transform: Transform | None) -> Batch:
    """A minibatch after `transform`, as a tuple."""
    if transform is None:
        return batch
    result = transform(*batch)
    return (result,) if isinstance(result, Tensor) else tuple(result)
