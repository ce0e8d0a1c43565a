"""Weighted points that an algorithm passes over: in memory, memory-mapped, in batches, divided among processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, cast, final

import torch
from torch import Tensor

from latentmix.inference.mixtures.points.processes import Processes
from latentmix.inference.mixtures.points.sources import Chunk, Source, as_source

__all__ = ["Points", "as_points"]

_CHUNK = 100_000  # values at a time: what a cache holds


@final
@dataclass(frozen=True)
class Summary:
    """What one pass finds of rows; summaries of disjoint rows add up (Chan, Golub and LeVeque, 1983).

    Args:
        count: Number of rows.
        weight: Their total weight.
        weights: `(D,)` weight of the values that are there, of each feature.
        mean: `(D,)` means.
        squares: `(D,)` weighted sums of squared deviations from the means.
        low: `(D,)` least values.
        high: `(D,)` greatest values.
        dtype: How the rows are stored.
        device: Where.
    """

    count: int
    weight: float
    weights: Tensor
    mean: Tensor
    squares: Tensor
    low: Tensor
    high: Tensor
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, x: Tensor, weight: Tensor | None) -> Summary:
        """The summary of `b x D` rows; NaN is a value that is not there."""
        part = x.double()
        there = None if bool(part.sum().isfinite()) else ~part.isnan()
        own = part.new_ones(len(x)) if weight is None else weight
        if there is None:
            weights = own.sum().expand(x.shape[1])
            mean = own @ part / weights.clamp_min(torch.finfo(torch.float64).tiny)
            squares = own @ (part - mean).square()
            low, high = part.aminmax(dim=0)
        else:
            weights = own @ there.double()
            filled = part.where(there, 0.0)
            mean = own @ filled / weights.clamp_min(torch.finfo(torch.float64).tiny)
            filled = part.where(there, mean)
            squares = own @ (filled - mean).square()
            low, high = part.where(there, torch.inf).amin(0), part.where(there, -torch.inf).amax(0)
        return cls(len(x), float(own.sum()), weights, mean, squares, low, high, x.dtype, x.device)

    def __add__(self, other: Summary) -> Summary:
        weights = self.weights + other.weights
        share = other.weights / weights.clamp_min(torch.finfo(torch.float64).tiny)
        between = other.mean - self.mean
        return replace(
            self,
            count=self.count + other.count,
            weight=self.weight + other.weight,
            weights=weights,
            mean=self.mean + share * between,
            squares=self.squares + other.squares + self.weights * share * between.square(),
            low=torch.minimum(self.low, other.low),
            high=torch.maximum(self.high, other.high),
        )

    def to(self, device: torch.device) -> Summary:
        """The same numbers elsewhere."""
        names = ("weights", "mean", "squares", "low", "high")
        return replace(self, device=device, **{name: getattr(self, name).to(device) for name in names})


@final
class Points:
    """Weighted points that an algorithm passes over; `as_points` makes them.

    A pass reads `chunks`, adds up what it finds, and ends with `reduce`, so that every process knows the sum over
    all. A chunk is good until the next one is asked for: a reader may fill the same memory again.

    Attributes:
        n_features: Number of features `D`.
        count: Number of rows, over all processes.
        weight: Their total weight.
        location: `(D,)` mean of each feature, in float64.
        variance: `(D,)` variance of each feature; a constant one takes the mean variance, or 1.
        radius: No point lies farther from the location, in standard deviations (Euclidean over the features); a bound
            from the ranges of the features.
        dtype: How the rows are stored.
        device: Where chunks of them lie.
        offset: Number of rows of the processes before this one.
        local_count: Number of rows of this process.
        weighted: Whether the rows have weights.
    """

    def __init__(self, source: Source, processes: Processes, summaries: list[Summary], *, weighted: bool) -> None:
        self.source, self.processes, self.weighted = source, processes, weighted
        self._columns: Source | None = None
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
        reach = reach.where(total.low <= total.high, 0.0)  # a column of which nothing is there
        self.radius = float((reach.square() / self.variance).sum().sqrt())

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
        """All rows in chunks of about the same size, `b <= rows`: for an algorithm that passes over them many times.

        Where the rows are few enough they are copied, column by column.
        """
        if self._columns is None:
            self._columns = self.source.by_columns()
        chunks = -(-self.local_count // max(1, rows))
        return self._columns.chunks(-(-self.local_count // chunks))

    def reduce[T](self, find: Callable[[], T]) -> T:
        """The sum over the processes of what each finds: a tensor, or a dataclass's tensors apart from `centres`.

        Raises:
            ValueError: What a process met; an error of another kind is raised as it is where it was met.
        """
        found = self._found(find)
        if self.processes.alone:
            return found
        if isinstance(found, Tensor):
            return cast(T, self.processes.sum(found)[0])
        assert is_dataclass(found)
        assert not isinstance(found, type)
        values = {field.name: getattr(found, field.name) for field in fields(found) if field.name != "centres"}
        names = [name for name, value in values.items() if isinstance(value, Tensor)]
        sums = self.processes.sum(*(values[name] for name in names))
        return cast(T, replace(found, **dict(zip(names, sums, strict=True))))

    def gather[T](self, find: Callable[[], T]) -> list[T]:
        """What each process finds, in the order of their numbers; errors are raised as `reduce` does."""
        return self.processes.gather(self._found(find))

    def _found[T](self, find: Callable[[], T]) -> T:
        """What this process finds, or an error of any, so that none waits for one that has given up."""
        found, failure = None, None
        try:
            found = find()
        except Exception as error:
            failure = error
        self.processes.refuse(failure)
        return cast(T, found)

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
            found, weight = self.source.take(indices[own] - self.offset)
            both[own, :-1] = found.double()
            both[own, -1] = 1.0 if weight is None else weight
        return both


def as_points(x: Any, sample_weight: Any = None, *, allow_nan: bool = False, distributed: bool = False) -> Points:
    """Points to pass over, checked and measured in one pass.

    With `distributed`, each process passes its part of the points, and all of them must call this and what uses the
    points, in the same order; all raise the same error.

    Args:
        x: `n x D` points: a tensor, an array, a `numpy.memmap` (read chunk by chunk, never copied as a whole), or
            batches `n_i x D`, or pairs of these and their weights (floats), that can be iterated again and again, such
            as a list or a `DataLoader`; or `Points`, given back as they are.
        sample_weight: `(n,)` weights, not negative.
        allow_nan: Whether NaN stands for a value that is missing; infinity never does.
        distributed: Whether the points are divided among the processes of torch.distributed, which must be
            initialised; by default they are this process's own, whatever the others do.

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
    failure: Exception | None = None
    source = summary = None
    weighted = False
    try:
        source = as_source(x, sample_weight)
        summary, weighted = _summary(source, allow_nan)
    except Exception as error:  # told to the other processes first, or they would wait for ever
        failure = error
    processes.refuse(failure)
    assert source is not None
    assert summary is not None
    reports = processes.gather((summary.to(torch.device("cpu")), weighted))
    summaries: list[Summary] = [report[0] for report in reports]
    _agree("features", [len(one.mean) for one in summaries])
    _agree("dtype", [one.dtype for one in summaries])
    _agree("weights", [report[1] for report in reports])
    if not sum(one.weight for one in summaries) > 0:
        raise ValueError("Expected sample_weight not to be all zero; got zeros.")
    summaries[processes.rank] = summary
    return Points(source, processes, summaries, weighted=weighted)


def _agree(what: str, values: list[Any]) -> None:
    if len(set(values)) > 1:
        listed = ", ".join(map(str, values))
        raise ValueError(f"Expected points with the same {what} on every process; got {listed}.")


def _summary(source: Source, allow_nan: bool) -> tuple[Summary, bool]:
    """One pass: the summary of the rows, and whether they have weights."""
    total, weighted, row = None, False, 0
    for x, weight in source.chunks(1_000_000):
        if x.shape[1] == 0:
            raise ValueError("Expected points with a feature at least; got none.")
        for part, own in _split(x, weight):
            _check(part, own, row, allow_nan)
            found = Summary.of(part, own)
            total = found if total is None else total + found
            row += len(part)
        weighted = weight is not None
    if total is None:
        raise ValueError("Expected points; got no rows.")
    return total, weighted


def _split(x: Tensor, weight: Tensor | None) -> Iterator[Chunk]:
    values = _CHUNK if x.device.type == "cpu" else 64 * _CHUNK
    rows = max(1, values // x.shape[1])
    for first in range(0, len(x), rows):
        yield x[first : first + rows], None if weight is None else weight[first : first + rows]


def _check(x: Tensor, weight: Tensor | None, row: int, allow_nan: bool) -> None:
    if not bool(x.sum(dtype=torch.float64).isfinite()):
        bad = x.isinf() if allow_nan else ~x.isfinite()
        if bool(bad.any()):
            at = int(bad.any(1).nonzero()[0])
            what = "infinity" if bool(x[at].isinf().any()) else "NaN"
            advice = "drop or mend the row (masked values are NaN)"
            advice = "drop the row, or mark what is missing by NaN" if allow_nan else advice
            raise ValueError(f"Expected finite points; got {what} in row {row + at}: {advice}.")
    if weight is not None:
        wrong = ~(weight.isfinite() & (weight >= 0))
        if bool(wrong.any()):
            at = int(wrong.nonzero()[0])
            raise ValueError(
                f"Expected sample_weight finite and not negative; got {float(weight[at])} in row {row + at}."
            )
