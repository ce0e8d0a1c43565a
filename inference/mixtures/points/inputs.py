"""The arrays that mixture estimators take, and how results are given back in kind."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from typing import Any, final

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler

from latentmix.inference.mixtures.points.arrays import as_tensor
from latentmix.inference.mixtures.points.sources import Arrays, Batches, Source, as_source, passed
from latentmix.models.process_state import exclusive

__all__ = [
    "Moved",
    "as_random_state",
    "first_batch",
    "in_memory",
    "is_mapped",
    "is_ordered",
    "is_stream",
    "refuse_batches",
    "returned",
]


def as_random_state(random_state: int | np.random.RandomState | None) -> np.random.RandomState:
    """scikit-learn's `check_random_state`, but of `None` a generator of its own, seeded from NumPy's global state.

    This seed is all that is drawn from the process's randomness.
    """
    if random_state is not None:
        return check_random_state(random_state)
    with exclusive():
        return np.random.RandomState(check_random_state(None).randint(2**32, dtype=np.uint32))


def returned(value: Tensor, like: Any) -> Any:
    """A tensor as one on the device of `like`, or as a NumPy array where that is no tensor."""
    if isinstance(like, Tensor):
        return value.detach().to(like.device)
    return value.detach().cpu().numpy()


def is_mapped(x: Any) -> bool:
    """Whether an array lies in a file that is mapped into memory, or is a view of one that does."""
    while isinstance(x, np.ndarray):
        if isinstance(x, np.memmap):
            return True
        x = x.base
    return isinstance(x, mmap.mmap)


def is_stream(x: Any) -> bool:
    """Whether points come in batches: a list of 2-D arrays or data frames, or an iterable that is no array."""
    if isinstance(x, list | tuple):
        first = x[0] if x else None
        first = first[0] if isinstance(first, tuple | list) and first else first
        return len(getattr(first, "shape", ())) == 2
    arrays = ("__array__", "__dataframe__", "shape", "toarray")
    return isinstance(x, Iterable) and not isinstance(x, str | bytes | dict) and not any(hasattr(x, a) for a in arrays)


def refuse_batches(x: Any) -> None:
    """Refuse batches where all points have to come at once.

    Raises:
        ValueError: If the points are batches.
    """
    if is_stream(x):
        raise ValueError("Expected an array or a tensor; got batches: pass them one by one.")


def first_batch(x: Any) -> Any:
    """The points of the first batch of a stream, `None` where there is none."""
    batch = next(passed(x), None)
    return batch[0] if isinstance(batch, tuple | list) and batch else batch


@final
class Moved:
    """Batches of points, and of their weights, in another dtype or on another device; anew for every pass.

    Args:
        x: A mapped array, or batches.
        sample_weight: `(n,)` weights of an array.
        device: Where the points go; by default they stay.
        dtype: What they become; by default they stay.
    """

    def __init__(
        self, x: Any, sample_weight: Any = None, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        self.source, self.device, self.dtype = as_source(x, sample_weight), device, dtype

    def __iter__(self) -> Iterator[Any]:
        for x, weight in self.source.chunks(65_536):
            moved = x.to(device=self.device or x.device, dtype=self.dtype or x.dtype)
            yield moved if weight is None else (moved, weight.to(moved.device))


def in_memory(source: Source) -> tuple[Tensor, Tensor | None] | None:
    """All rows of an array or a tensor, and their weights in float64; `None` of batches."""
    moved = source.batches if isinstance(source, Batches) else None
    held = moved.source if isinstance(moved, Moved) else source
    if not isinstance(held, Arrays):
        return None
    x, weight = as_tensor(held.x), held.weight
    if isinstance(moved, Moved):
        x = x.to(device=moved.device or x.device, dtype=moved.dtype or x.dtype)
    return x, None if weight is None else as_tensor(weight).to(x.device, torch.float64)


def is_ordered(source: Source) -> bool:
    """Whether rows come in the order of the user's data: not so where a `DataLoader` shuffles or samples them."""
    moved = source.batches if isinstance(source, Batches) else None
    held = moved.source if isinstance(moved, Moved) else source
    loader = held.batches if isinstance(held, Batches) else None
    return not isinstance(loader, DataLoader) or type(loader.sampler) is SequentialSampler
