"""Minibatches: tensors that are sliced together on their first dimension."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.masked import MaskedTensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from latentmix.inference.isolation import isolated, ordinary

__all__ = ["Batch", "Data", "Transform", "as_batch", "chunks", "transformed"]

Batch = tuple[Tensor, ...]
Data = Tensor | Sequence[Tensor] | DataLoader[Any]
Transform = Callable[..., Tensor | Sequence[Tensor]]


def as_batch(data: Data) -> Batch:
    """Data as a tuple of tensors of one length.

    The data set of a `DataLoader` is read into memory once, in its own order, by the loader's `collate_fn` and workers.

    Args:
        data: A tensor, several tensors, or a `DataLoader` of such.

    Raises:
        ValueError: If there is no tensor or datum, the lengths differ, or a loader's data set has no known length, or
            its sampler does not visit each datum once.
    """
    if isinstance(data, DataLoader):
        data = _read(data)
    tensors = (data,) if isinstance(data, Tensor) else tuple(data)
    if not tensors or any(not isinstance(tensor, Tensor) or tensor.dim() == 0 for tensor in tensors):
        raise ValueError(
            f"Expected a tensor, or a tuple of tensors, with data on the first dimension; got {type(data).__name__}."
        )
    if any(isinstance(tensor, MaskedTensor) for tensor in tensors):
        raise ValueError(
            "Expected plain tensors; got a torch MaskedTensor: pass x.to_tensor(0.0), and its mask as another tensor."
        )
    lengths = {len(tensor) for tensor in tensors}
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(f"Expected tensors of one length, with at least one datum; got lengths {sorted(lengths)}.")
    return tuple(map(ordinary, tensors))


def transformed(batch: Batch, transform: Transform | None) -> Batch:
    """The minibatch after `transform`, as a tuple."""
    if transform is None:
        return batch
    result = transform(*batch)
    return (result,) if isinstance(result, Tensor) else tuple(result)


def chunks(data: Batch, size: int, transform: Transform | None) -> Iterator[tuple[int, Batch]]:
    """Chunks of data in order, each after `transform`.

    Args:
        data: Tensors of one length.
        size: Data a chunk; the last one may have fewer.
        transform: Applied to every chunk.

    Yields:
        The row that the chunk starts with, and the chunk.

    Example:
        >>> import torch
        >>> from latentmix.inference.batches import chunks
        >>> [(start, len(x)) for start, (x,) in chunks((torch.zeros(5, 2),), 2, None)]
        [(0, 2), (2, 2), (4, 1)]
    """
    for start in range(0, len(data[0]), size):
        yield start, transformed(tuple(tensor[start : start + size] for tensor in data), transform)


def _read(loader: DataLoader[Any]) -> Batch:
    """All data of a loader, in the order of its data set."""
    obstacle = _obstacle(loader)
    if obstacle is not None:
        raise ValueError(
            f"Expected a DataLoader over a data set of known length, each datum once; got {obstacle}: pass tensors, or "
            "a loader without it."
        )
    with isolated(seed=0):  # a data set may draw random numbers
        every = DataLoader(
            loader.dataset,
            batch_size=loader.batch_size,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            worker_init_fn=loader.worker_init_fn,
        )
        batches = [(batch,) if isinstance(batch, Tensor) else batch for batch in every]
    for batch in batches:
        if not isinstance(batch, Sequence) or any(not isinstance(part, Tensor) for part in batch):
            raise ValueError(
                f"Expected a DataLoader of tensors, or of tuples of them; got {type(batch).__name__}: set its "
                "collate_fn."
            )
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


def _obstacle(loader: DataLoader[Any]) -> str | None:
    """The part of a loader that keeps it from visiting each datum once; None if there is no such part."""
    sampler, batches = loader.sampler, loader.batch_sampler
    if isinstance(loader.dataset, IterableDataset):
        return type(loader.dataset).__name__
    if batches is None:
        return "batch_size=None"
    if type(batches) is not BatchSampler:
        return f"a batch_sampler, {type(batches).__name__}"
    if not isinstance(sampler, SequentialSampler | RandomSampler):
        return type(sampler).__name__
    if isinstance(sampler, RandomSampler) and (sampler.replacement or len(sampler) != len(loader.dataset)):  # type: ignore[arg-type]
        return "a RandomSampler with replacement or another number of samples"
    return None
