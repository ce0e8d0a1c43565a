"""Rows of features that can be read again and again: in memory, in a mapped file, or in batches."""

from __future__ import annotations

import itertools
import mmap
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler

from latentmix.inference.isolation import isolated
from latentmix.inference.mixtures.points.arrays import Array, as_array, as_tensor, plain_array, slices

__all__ = ["Arrays", "Batches", "Chunk", "Source", "as_source", "refuse_batches"]

Chunk = tuple[Tensor, Tensor | None]
# Most values of a copied chunk: 32 MB in float64.
_MOST_VALUES = 4_000_000
# Most bytes that `by_columns` copies.
_MOST_BYTES = 128 * 2**20


class Source(ABC):
    """Rows of features, with weights or without, that can be read again and again."""

    @abstractmethod
    def chunks(self, rows: int) -> Iterator[Chunk]:
        """All rows in order, at most `rows` at a time: `b x D`, and `(b,)` weights in float64 or `None`.

        Chunks that have to be copied are of 32 MB at most. A chunk is valid until the next is requested.
        """

    @property
    def like(self) -> Array:
        """An empty array or tensor of the kind, and on the device, in which results are returned."""
        return np.empty(0)

    @property
    def ordered(self) -> bool:
        """Whether rows come in the order of the user's data: not from a `DataLoader` that shuffles or samples."""
        return True

    @property
    def at_once(self) -> bool:
        """Whether all rows came as one array or tensor, rather than in batches."""
        return True

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abstractmethod
    def tensor(self, purpose: str = "") -> Chunk:
        """All rows, and their weights in float64 or `None`.

        Args:
            purpose: What needs all rows, such as "a noise_covariance", for the message of the error.

        Raises:
            ValueError: If the rows come in batches.
        """

    def take(self, indices: Tensor) -> Chunk:
        """The rows of ascending `indices`, by one pass over all."""
        kept, weights, first = [], [], 0
        for x, weight in self.chunks(65_536):
            own = indices[(indices >= first) & (indices < first + len(x))].to(x.device) - first
            kept.append(x[own])
            weights += [] if weight is None else [weight[own]]
            first += len(x)
        return torch.cat(kept), torch.cat(weights) if weights else None

    def by_columns(self) -> Source:
        """The same rows, copied column by column where they are in memory and few enough, for repeated passes."""
        return self

    def map(self, function: Callable[[Tensor], Tensor]) -> Source:
        """The rows after a function of `b x D` chunks of them."""
        return _Mapped(self, function)

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Source:
        """The same rows on another device, or in another dtype; results are still returned as `like` says."""
        if device is None and dtype is None:
            return self
        return self.map(lambda x: x.to(device=device or x.device, dtype=dtype or x.dtype))


@final
class Arrays(Source):
    """Rows of a tensor or an array, of which only chunks are ever copied: it may be mapped from a file.

    Args:
        x: `n x D`.
        weight: `(n,)`.
        like: See `Source.like`; by default as `x`.
    """

    def __init__(self, x: Array, weight: Array | None = None, *, like: Array | None = None) -> None:
        if x.ndim != 2:
            raise ValueError(f"Expected points of shape n x D; got {tuple(x.shape)}.")
        if weight is not None and tuple(weight.shape) != (len(x),):
            raise ValueError(f"Expected sample_weight of shape {(len(x),)}; got {tuple(weight.shape)}.")
        self.x, self.weight = x, weight
        self._like = _kind(x) if like is None else like

    @property
    def like(self) -> Array:
        return self._like

    def __len__(self) -> int:
        return len(self.x)

    def chunks(self, rows: int) -> Iterator[Chunk]:
        rows = rows if isinstance(self.x, Tensor) else _fewer(rows, self.x.shape[1])
        return map(self._rows, slices(len(self.x), rows))

    def tensor(self, purpose: str = "") -> Chunk:
        x, weight = as_tensor(self.x), self.weight
        return x, None if weight is None else as_tensor(weight).to(x.device, torch.float64)

    def take(self, indices: Tensor) -> Chunk:
        return self._rows(indices.to(self.x.device) if isinstance(self.x, Tensor) else indices.cpu().numpy())

    def by_columns(self) -> Source:
        size = len(self.x) * self.x.shape[1] * _floating(self.x[:0]).element_size()
        if size > _MOST_BYTES or isinstance(self.x, np.memmap):
            return self
        x = _floating(self.x)
        return Arrays(x.mT.contiguous().mT, self.weight, like=self.like) if x.is_contiguous() else self

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Source:
        if _is_mapped(self.x):
            return super().to(device, dtype)
        x = as_tensor(self.x)
        return Arrays(x.to(device=device or x.device, dtype=dtype or x.dtype), self.weight, like=self.like)

    def _rows(self, rows: Any) -> Chunk:
        x = _floating(self.x[rows])
        if self.weight is None:
            return x, None
        rows = rows.cpu() if isinstance(rows, Tensor) and not isinstance(self.weight, Tensor) else rows
        return x, _floating(self.weight[rows]).to(x.device, torch.float64)


@final
class Batches(Source):
    """Batches from an iterable that can be iterated again: `n_i x D`, or pairs of these and floating-point weights.

    Args:
        batches: The iterable.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        if isinstance(batches, Iterator):
            raise ValueError(
                f"Expected batches that can be iterated again and again; got a {type(batches).__name__}, which is "
                "spent after one pass: pass a list, a DataLoader, or an object whose __iter__ restarts."
            )
        self.batches = batches
        self.count: int | None = None
        self._like: Array | None = None

    @property
    def like(self) -> Array:
        if self._like is None:
            next(self._checked(), None)
        return np.empty(0) if self._like is None else self._like

    @property
    def ordered(self) -> bool:
        return not isinstance(self.batches, DataLoader) or type(self.batches.sampler) is SequentialSampler

    @property
    def at_once(self) -> bool:
        return False

    def __len__(self) -> int:
        return sum(len(x) for x, _ in self._checked()) if self.count is None else self.count

    def tensor(self, purpose: str = "") -> Chunk:
        need = f" with {purpose}" if purpose else ""
        raise ValueError(f"Expected an array or a tensor{need}; got batches: pass all points at once.")

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
                for part in slices(len(x), rows):
                    yield x[part], None if weight is None else weight[part]
            else:  # copied: a reader may fill the same memory with the next batch
                held.append((x.clone(), None if weight is None else weight.clone()))
                size += len(x)
        if held:
            yield _joined(held)
        if self.count is not None and total != self.count:
            raise ValueError(
                f"Expected the same {self.count} rows in every pass over the batches; got {total}: pass an object "
                "whose __iter__ restarts."
            )
        self.count = total

    def _checked(self) -> Iterator[Chunk]:
        first: tuple[int, torch.dtype, bool] | None = None
        for number, batch in enumerate(_read(self.batches)):
            pair = isinstance(batch, tuple | list)
            if pair and not 1 <= len(batch) <= 2:
                raise ValueError(
                    f"Expected batches n_i x D, or pairs of these and weights; got {len(batch)} parts in batch "
                    f"{number}."
                )
            given = batch[0] if pair else batch
            x = _floating(given)
            weight = _weight(batch[1], number).to(x.device) if pair and len(batch) == 2 else None
            if x.ndim != 2:
                raise ValueError(f"Expected batches of shape n_i x D; got {tuple(x.shape)} in batch {number}.")
            if weight is not None and weight.shape != x.shape[:1]:
                raise ValueError(f"Expected weights of shape {(len(x),)} in batch {number}; got {tuple(weight.shape)}.")
            self._like = _kind(given) if self._like is None else self._like
            if not len(x):
                continue
            form = (x.shape[1], x.dtype, weight is not None)
            first = form if first is None else first
            if form != first:
                named = [("features", 0), ("dtype", 1), ("weights", 2)]
                name, at = next((name, at) for name, at in named if form[at] != first[at])
                raise ValueError(
                    f"Expected all batches to have the same {name}, {first[at]}; got {form[at]} in batch {number}."
                )
            yield x, weight


@final
class _Mapped(Source):
    """Rows of another source after a function of their chunks."""

    def __init__(self, source: Source, function: Callable[[Tensor], Tensor]) -> None:
        self.source, self.function = source, function

    @property
    def like(self) -> Array:
        return self.source.like

    @property
    def ordered(self) -> bool:
        return self.source.ordered

    @property
    def at_once(self) -> bool:
        return self.source.at_once

    def __len__(self) -> int:
        return len(self.source)

    def chunks(self, rows: int) -> Iterator[Chunk]:
        return map(self._after, self.source.chunks(rows))

    def tensor(self, purpose: str = "") -> Chunk:
        return self._after(self.source.tensor(purpose))

    def take(self, indices: Tensor) -> Chunk:
        return self._after(self.source.take(indices))

    def _after(self, chunk: Chunk) -> Chunk:
        x, weight = self.function(chunk[0]), chunk[1]
        return x, None if weight is None else weight.to(x.device)


def as_source(x: Any, sample_weight: Any = None, *, check: Callable[[Any], Array] | None = None) -> Source:
    """The source of `n x D` points that a user passes.

    Args:
        x: A tensor, an array (one in a mapped file is read chunk by chunk), a data frame, or batches that can be
            iterated again: a list of arrays or data frames, a `DataLoader`, any iterable that is no array.
        sample_weight: `(n,)` weights; batches bring their own.
        check: Checks points that come at once, and makes an array or a tensor of them.

    Raises:
        ValueError: If the shapes do not fit, or the batches are a generator.
    """
    if isinstance(x, Source):
        return x
    if _are_batches(x) or not (check or hasattr(x, "__array__")):
        if not isinstance(x, Iterable):
            raise ValueError(f"Expected a tensor, an array or batches of points; got {type(x).__name__}.")
        if sample_weight is not None:
            raise ValueError("Expected no sample_weight beside batches; got one: let the batches be pairs (x, weight).")
        return Batches(x)
    array = check(x) if check else x if isinstance(x, np.memmap) else as_array(x)
    weight = None if sample_weight is None else as_array(sample_weight)
    return Arrays(array.detach() if isinstance(array, Tensor) else array, weight)


def refuse_batches(x: Any) -> None:
    """Refuse batches where all points have to come at once.

    Raises:
        ValueError: If the points are batches.
    """
    if _are_batches(x):
        raise ValueError("Expected an array or a tensor; got batches: pass them one by one.")


def _are_batches(x: Any) -> bool:
    """Whether points come in batches: a list of 2-D arrays or data frames, or an iterable that is no array."""
    if isinstance(x, list | tuple):
        first = x[0] if x else None
        first = first[0] if isinstance(first, tuple | list) and first else first
        return len(getattr(first, "shape", ())) == 2
    arrays = ("__array__", "__dataframe__", "shape", "toarray")
    return isinstance(x, Iterable) and not isinstance(x, str | bytes | dict) and not any(hasattr(x, a) for a in arrays)


def _is_mapped(x: Any) -> bool:
    """Whether an array lies in a file that is mapped into memory, or is a view of one that does."""
    while isinstance(x, np.ndarray):
        if isinstance(x, np.memmap):
            return True
        x = x.base
    return isinstance(x, mmap.mmap)


def _read(batches: Iterable[Any]) -> Iterator[Any]:
    """One pass over batches.

    The draws of a `DataLoader`, such as its order where it shuffles, are the same in every pass, and do not move the
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


def _kind(x: Any) -> Array:
    return torch.empty(0, device=x.device) if isinstance(x, Tensor) else np.empty(0)


def _fewer(rows: int, n_features: int) -> int:
    return max(1, min(rows, _MOST_VALUES // max(1, n_features)))


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
    """Weights of a batch in float64; class labels, often the second of a pair, are refused."""
    kind = values.dtype if isinstance(values, Tensor) else plain_array(values).dtype
    if not (kind.is_floating_point if isinstance(kind, torch.dtype) else kind.kind == "f"):
        raise ValueError(
            f"Expected floating-point weights as the second of a pair; got {kind} in batch {number}, as of class "
            "labels: yield the points alone, or weights as floats."
        )
    return _floating(values).double()
