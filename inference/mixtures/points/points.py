"""Weighted points as algorithms read them: in chunks, with their moments, wherever they lie."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, cast, final

import torch
from torch import Tensor

from latentmix.inference.mixtures.points.arrays import Array, slices
from latentmix.inference.mixtures.points.processes import Processes
from latentmix.inference.mixtures.points.sources import Arrays, Chunk, Source, as_source
from latentmix.inference.mixtures.points.summary import Summary

__all__ = ["Points", "as_points", "check_weighted"]

_CHUNK = 100_000  # values at a time: what a cache holds


@final
class Points:
    """Weighted points with their moments; `as_points` makes them.

    A pass reads `chunks`, adds up statistics of them, and ends with `reduce`, so that every process knows the sum over
    all. A chunk is valid until the next is requested.

    Attributes:
        n_features: Number of features `D`.
        count: Number of rows, over all processes.
        weight: Their total weight.
        location: `(D,)` mean of each feature, in float64.
        variance: `(D,)` variance of each feature; a constant one takes the mean variance, or 1.
        radius: Upper bound on the distance of a point from the location, in standard deviations (Euclidean over the
            features), from the ranges of the features.
        dtype: The dtype of the rows.
        device: The device of chunks of them.
        offset: Number of rows of the processes before this one.
        local_count: Number of rows of this process.
        weighted: Whether the rows have weights.
    """

    def __init__(self, source: Source, processes: Processes, summaries: list[Summary], *, weighted: bool) -> None:
        self.source, self.processes, self.weighted = source, processes, weighted
        self._columns: Source | None = None
        self._whole: list[Chunk] = []
        own = summaries[processes.rank]
        self.dtype, self.device, self.local_count = own.dtype, own.device, own.count
        self.offset = sum(summary.count for summary in summaries[: processes.rank])
        total = summaries[0].to(own.device)
        for summary in summaries[1:]:
            total = total + summary.to(own.device)
        self.count, self.weight, self.n_features = total.count, total.weight, len(total.mean)
        self.location = total.mean
        variance = total.squares / total.weights.clamp_min(torch.finfo(torch.float64).tiny)
        constant = variance.isfinite() & ((variance <= 1e-24 * total.mean.square()) | (variance <= 0))
        fallback = torch.ones_like(variance[0]) if bool(constant.all()) else variance.where(~constant, 0.0).mean()
        self.variance = torch.where(constant, fallback, variance)
        reach = torch.maximum(total.high - total.mean, total.mean - total.low)
        reach = reach.where(total.low <= total.high, 0.0)  # a feature without an observed value
        self.radius = float((reach.square() / self.variance).sum().sqrt())

    @classmethod
    def measure(cls, find: Callable[[], Source], processes: Processes, *, allow_nan: bool = False) -> Points:
        """The points of the source that each process finds, measured in one pass.

        Args:
            find: Gives the rows of this process.
            processes: Those among which the points are divided.
            allow_nan: Whether NaN stands for a missing value.

        Raises:
            ValueError: As `as_points` raises it; errors of `find` and of the rows are raised on all processes.
        """
        source: Source | None = None
        own: Summary | None = None

        def summarise() -> tuple[Summary, bool]:
            nonlocal source, own
            source = find()
            own, weighted = _summary(source, allow_nan)
            return own.to(torch.device("cpu")), weighted

        reports = processes.gather(summarise)
        assert source is not None
        assert own is not None
        summaries = [summary for summary, _ in reports]
        _check_same("features", [len(summary.mean) for summary in summaries])
        _check_same("dtype", [summary.dtype for summary in summaries])
        check_weighted(sum(weighted for _, weighted in reports), processes)
        if not sum(summary.weight for summary in summaries) > 0:
            raise ValueError("Expected sample_weight not to be all zero; got zeros.")
        summaries[processes.rank] = own
        return cls(source, processes, summaries, weighted=reports[0][1])

    @property
    def like(self) -> Array:
        """An empty array or tensor of the kind, and on the device, in which results are returned."""
        return self.source.like

    @property
    def ordered(self) -> bool:
        """Whether rows come in the order of the user's data: not from a `DataLoader` that shuffles or samples."""
        return self.source.ordered

    def check_scale(self) -> None:
        """Refuse points to which no mixture can be fitted, because their variance is not finite.

        Raises:
            ValueError: If it is not.
        """
        if not bool(self.variance.isfinite().all()):
            raise ValueError(
                "Expected points whose squares are finite; got values so large that their variance is not: divide the "
                "points by a common factor."
            )

    def chunks(self, rows: int) -> Iterator[Chunk]:
        """The rows of this process in order: `b x D` in the stored dtype, `b <= rows`, and `(b,)` weights or `None`."""
        return self.source.chunks(max(1, rows))

    def columns(self, rows: int) -> Iterator[Chunk]:
        """All rows in chunks of about the same size, `b <= rows`: for algorithms that make many passes.

        Where the rows are few enough they are copied, column by column; a single chunk of these is the same object in
        every pass.
        """
        if self._columns is None:
            self._columns = self.source.by_columns()
        chunks = -(-self.local_count // max(1, rows))
        if chunks == 1 and isinstance(self._columns, Arrays):
            self._whole = self._whole or list(self._columns.chunks(rows))
            return iter(self._whole)
        return self._columns.chunks(-(-self.local_count // chunks))

    def tensor(self, purpose: str = "") -> Chunk:
        """All rows of this process, and their weights in float64 or `None`.

        Args:
            purpose: What needs all rows, such as "a noise_covariance", for the message of the error.

        Raises:
            ValueError: If the points come in batches.
        """
        return self.source.tensor(purpose)

    def map(self, function: Callable[[Tensor], Tensor]) -> Points:
        """The points after a function of `b x D` chunks of them, which leaves their moments as they are."""
        mapped = copy.copy(self)
        mapped.source, mapped._columns, mapped._whole = self.source.map(function), None, []
        return mapped

    def reduce[T](self, compute: Callable[[], T]) -> T:
        """The sum over the processes of a tensor, or of a dataclass's tensors apart from `centres`, in one exchange.

        Args:
            compute: Gives the summand of this process.

        Raises:
            ValueError: If a process fails; see `Processes`.
        """
        if self.processes.alone:
            return compute()
        own: T | None = None
        names: list[str] = []

        def summands() -> list[Tensor]:
            nonlocal own, names
            own = compute()
            if isinstance(own, Tensor):
                return [own]
            assert is_dataclass(own)
            names = [field.name for field in fields(own) if field.name != "centres"]
            names = [name for name in names if isinstance(getattr(own, name), Tensor)]
            return [getattr(own, name) for name in names]

        sums = self.processes.sum(summands)
        return cast(T, replace(own, **dict(zip(names, sums, strict=True))) if names else sums[0])  # type: ignore[type-var]

    def gather[T](self, compute: Callable[[], T]) -> list[T]:
        """The value that each process computes, in the order of their ranks; errors are raised as by `reduce`."""
        return self.processes.gather(compute)

    def sample(self, indices: Tensor) -> Tensor:
        """The rows of the `(m,)` indices, counted over all processes: `m x D`, the same on each."""
        return self.weighted_sample(indices)[0]

    def weighted_sample(self, indices: Tensor) -> Chunk:
        """The rows of the `(m,)` indices, counted over all processes, and their weights."""
        both = self.reduce(lambda: self._own_sample(indices.to(self.device)))
        return both[:, :-1].to(self.dtype), both[:, -1] if self.weighted else None

    def _own_sample(self, indices: Tensor) -> Tensor:
        """The rows among the indices that this process has, and in the last column their weights; zeros elsewhere."""
        both = torch.zeros(len(indices), self.n_features + 1, dtype=torch.float64, device=self.device)
        order = indices.argsort()
        ascending = indices[order] - self.offset
        own = order[(ascending >= 0) & (ascending < self.local_count)]
        if len(own):
            rows, weight = self.source.take(indices[own] - self.offset)
            both[own, :-1] = rows.double()
            both[own, -1] = 1.0 if weight is None else weight
        return both


def as_points(x: Any, sample_weight: Any = None, *, allow_nan: bool = False, distributed: bool = False) -> Points:
    """Points, checked and measured in one pass.

    With `distributed`, each process passes its part of the points, and all of them must call this, and everything that
    reads the points, in the same order; all raise the same error.

    Args:
        x: `n x D` points: a tensor, an array, a `numpy.memmap` (read chunk by chunk, never copied as a whole), or
            batches `n_i x D`, or pairs of these and their weights (floats), that can be iterated again and again, such
            as a list or a `DataLoader`; `Points` are returned unchanged.
        sample_weight: `(n,)` weights, not negative.
        allow_nan: Whether NaN stands for a missing value; infinity never does.
        distributed: Whether the points are divided among the processes of torch.distributed, which must be
            initialised; by default this process holds all of them.

    Raises:
        ValueError: If values are not finite (the message names the row), weights are negative, not finite or all
            zero, shapes do not fit, there are no rows, batches cannot be iterated again, the processes' points have
            different features or dtypes, or torch.distributed is not initialised.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.points.points import as_points
        >>> batches = [torch.zeros(3, 2), torch.ones(3, 2)]
        >>> points = as_points(batches)
        >>> points.count, points.location
        (6, tensor([0.5000, 0.5000], dtype=torch.float64))
    """
    if isinstance(x, Points):
        if sample_weight is not None:
            raise ValueError("Expected no sample_weight beside Points; got one: the points hold their own.")
        return x
    processes = Processes.present() if distributed else Processes()
    return Points.measure(lambda: as_source(x, sample_weight), processes, allow_nan=allow_nan)


def check_weighted(count: int, processes: Processes) -> None:
    """Refuse weights on some processes alone.

    Raises:
        ValueError: If `count`, the number of those that have weights, is neither 0 nor all.
    """
    if count not in (0, processes.size):
        raise ValueError("Expected sample_weight on every process, or on none; got it on some.")


def _check_same(name: str, values: Sequence[Hashable]) -> None:
    if len(set(values)) > 1:
        listed = ", ".join(map(str, values))
        raise ValueError(f"Expected points with the same {name} on every process; got {listed}.")


def _summary(source: Source, allow_nan: bool) -> tuple[Summary, bool]:
    """The summary of the rows, and whether they have weights, from one pass."""
    total, weighted = None, False
    for x, weight in source.chunks(1_000_000):
        if x.shape[1] == 0:
            raise ValueError("Expected points with a feature at least; got none.")
        values = _CHUNK if x.device.type == "cpu" else 64 * _CHUNK
        for part in slices(len(x), values // x.shape[1]):
            own, row = None if weight is None else weight[part], 0 if total is None else total.count
            summary = Summary.of(x[part], own, row=row, allow_nan=allow_nan)
            total = summary if total is None else total + summary
        weighted = weight is not None
    if total is None:
        raise ValueError("Expected points; got no rows.")
    return total, weighted
