"""Where the points of one process lie: in memory, memory-mapped, or in batches that come one after another."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from latentmix.inference.isolation import isolated
from latentmix.inference.mixtures.points.arrays import as_array, as_tensor

__all__ = ["Arrays", "Batches", "Source", "as_source", "passed"]

Chunk = tuple[Tensor, Tensor | None]
# Values of a chunk that is copied: 32 MB in float64.
_MOST = 4_000_000
# Bytes of points that are copied as a whole.
_COLUMNS = 128 * 2**20


class Source(ABC):
    """Rows of features, with weights or without, that can be passed over again and again."""

    @abstractmethod
    def chunks(self, rows: int) -> Iterator[Chunk]:
        """All rows in order, at most `rows` at a time: `b x D`, and `(b,)` weights in float64.

        Chunks that have to be copied are of 32 MB at most.
        """

    def by_columns(self) -> Source:
        """The same rows, in memory column by column where they are few enough: what passes over all of them read."""
        return self

    def take(self, indices: Tensor) -> Chunk:
        """The rows of ascending `indices`, by a pass over all."""
        kept, weights, first = [], [], 0
        for x, weight in self.chunks(65_536):
            own = indices[(indices >= first) & (indices < first + len(x))].to(x.device) - first
            kept.append(x[own])
            weights += [] if weight is None else [weight[own]]
            first += len(x)
        return torch.cat(kept), torch.cat(weights) if weights else None


@final
class Arrays(Source):
    """Rows of a tensor or of an array, which may be mapped from a file: only chunks are ever copied.

    Args:
        x: `n x D`.
        weight: `(n,)`.
    """

    def __init__(self, x: Tensor | NDArray[Any], weight: Tensor | NDArray[Any] | None) -> None:
        if x.ndim != 2:
            raise ValueError(f"Expected points of shape n x D; got {tuple(x.shape)}.")
        if weight is not None and tuple(weight.shape) != (len(x),):
            raise ValueError(f"Expected sample_weight of shape {(len(x),)}; got {tuple(weight.shape)}.")
        self.x, self.weight = x, weight

    def chunks(self, rows: int) -> Iterator[Chunk]:
        if not isinstance(self.x, Tensor):
            rows = _fewer(rows, self.x.shape[1])
        for first in range(0, len(self.x), rows):
            yield self._rows(slice(first, first + rows))

    def by_columns(self) -> Source:
        x = self.x if isinstance(self.x, Tensor | np.memmap) else _floating(self.x)
        if not isinstance(x, Tensor) or not x.is_contiguous() or x.numel() * x.element_size() > _COLUMNS:
            return self
        return Arrays(x.mT.contiguous().mT, self.weight)

    def take(self, indices: Tensor) -> Chunk:
        if isinstance(self.x, Tensor):
            return self._rows(indices.to(self.x.device))
        return self._rows(indices.cpu().numpy())

    def _rows(self, rows: Any) -> Chunk:
        x = _floating(self.x[rows])
        if self.weight is None:
            return x, None
        rows = rows.cpu() if isinstance(rows, Tensor) and not isinstance(self.weight, Tensor) else rows
        return x, _floating(self.weight[rows]).to(x.device, torch.float64)


@final
class Batches(Source):
    """Batches that an iterable yields anew whenever it is iterated: `n_i x D`, or pairs of these and float weights.

    Args:
        batches: The iterable.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        if isinstance(batches, Iterator):
            raise ValueError(
                f"Expected batches that can be iterated again and again; got a {type(batches).__name__}, which is "
                "spent after one pass: pass a list, a DataLoader, or an object whose __iter__ starts anew."
            )
        self.batches = batches
        self.count: int | None = None

    def chunks(self, rows: int) -> Iterator[Chunk]:
        held: list[Chunk] = []
        size = total = 0
        for x, weight in self._checked():
            rows = _fewer(rows, x.shape[1])
            total += len(x)
            if held and size + len(x) > rows:
                yield _joined(held)
                held, size = [], 0
            if len(x) >= rows:
                for first in range(0, len(x), rows):
                    part = slice(first, first + rows)
                    yield x[part], None if weight is None else weight[part]
            else:  # copied: a reader may fill the same memory with the next batch
                held.append((x.clone(), None if weight is None else weight.clone()))
                size += len(x)
        if held:
            yield _joined(held)
        if self.count is not None and total != self.count:
            raise ValueError(
                f"Expected the same {self.count} rows in every pass over the batches; got {total}: pass an object "
                "whose __iter__ starts anew."
            )
        self.count = total

    def _checked(self) -> Iterator[Chunk]:
        first: tuple[int, torch.dtype, bool] | None = None
        for number, batch in enumerate(passed(self.batches)):
            pair = isinstance(batch, tuple | list)
            if pair and not 1 <= len(batch) <= 2:
                raise ValueError(
                    f"Expected batches n_i x D, or pairs of these and weights; got {len(batch)} parts in batch "
                    f"{number}."
                )
            x = _floating(batch[0] if pair else batch)
            weight = _weight(batch[1], number).to(x.device) if pair and len(batch) == 2 else None
            if x.ndim != 2:
                raise ValueError(f"Expected batches of shape n_i x D; got {tuple(x.shape)} in batch {number}.")
            if weight is not None and weight.shape != x.shape[:1]:
                raise ValueError(f"Expected weights of shape {(len(x),)} in batch {number}; got {tuple(weight.shape)}.")
            if not len(x):
                continue
            found = (x.shape[1], x.dtype, weight is not None)
            first = found if first is None else first
            if found != first:
                named = [("features", 0), ("dtype", 1), ("weights", 2)]
                name, at = next((name, at) for name, at in named if found[at] != first[at])
                raise ValueError(
                    f"Expected all batches to have the same {name}, {first[at]}; got {found[at]} in batch {number}."
                )
            yield x, weight


def passed(batches: Iterable[Any]) -> Iterator[Any]:
    """One pass over batches.

    What a `DataLoader` draws, such as its order where it shuffles, is the same in every pass, and does not move the
    random states of the process.
    """
    if not isinstance(batches, DataLoader):
        yield from batches
        return
    iterator: Iterator[Any] | None = None
    for number in itertools.count():
        with isolated(seed=number):
            iterator = iter(batches) if iterator is None else iterator
            batch = next(iterator, None)
        if batch is None:
            return
        yield batch


def as_source(x: Any, sample_weight: Any = None) -> Source:
    """Where `n x D` points lie.

    Args:
        x: A tensor, an array (a `numpy.memmap` is read chunk by chunk), or batches that can be iterated again.
        sample_weight: `(n,)` weights; batches bring their own.

    Raises:
        ValueError: If the shapes do not fit, or the batches are a generator.
    """
    if hasattr(x, "__array__"):
        x = x if isinstance(x, np.memmap) else as_array(x)
        weight = None if sample_weight is None else as_array(sample_weight)
        return Arrays(x.detach() if isinstance(x, Tensor) else x, weight)
    if not isinstance(x, Iterable):
        raise ValueError(f"Expected a tensor, an array or batches of points; got {type(x).__name__}.")
    if sample_weight is not None:
        raise ValueError("Expected no sample_weight beside batches; got one: let the batches be pairs (x, weight).")
    return Batches(x)


def _fewer(rows: int, n_features: int) -> int:
    return max(1, min(rows, _MOST // max(1, n_features)))


def _joined(chunks: list[Chunk]) -> Chunk:
    if len(chunks) == 1:
        return chunks[0]
    weights = [weight for _, weight in chunks if weight is not None]
    return torch.cat([x for x, _ in chunks]), torch.cat(weights) if weights else None


def _floating(values: Any) -> Tensor:
    """A floating tensor; memory is shared where the values are such already and may be written to."""
    values = as_tensor(values)
    if values.is_complex():
        raise ValueError(f"Expected real numbers; got values of dtype {values.dtype}.")
    return values.detach() if values.is_floating_point() else values.double()


def _weight(values: Any, number: int) -> Tensor:
    """Weights of a batch in float64; class labels are often the second of a pair, and are refused."""
    kind = values.dtype if isinstance(values, Tensor) else np.asarray(values).dtype
    if not (kind.is_floating_point if isinstance(kind, torch.dtype) else kind.kind == "f"):
        raise ValueError(
            f"Expected floating-point weights as the second of a pair; got {kind} in batch {number}, as of class "
            "labels: yield the points alone, or weights as floats."
        )
    return _floating(values).double()
