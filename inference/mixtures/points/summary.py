"""Additive first and second moments and ranges of weighted rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

__all__ = ["Summary", "check_rows", "check_weights_of_rows"]

_TINY = torch.finfo(torch.float64).tiny


@final
@dataclass(frozen=True)
class Summary:
    """Moments and ranges of rows; summaries of disjoint rows add up (Chan, Golub and LeVeque, 1983).

    Args:
        count: Number of rows.
        weight: Their total weight.
        weights: `(D,)` weight of the observed values of each feature.
        mean: `(D,)` means.
        squares: `(D,)` weighted sums of squared deviations from the means.
        low: `(D,)` least values.
        high: `(D,)` greatest values.
        dtype: The dtype of the rows.
        device: Their device.
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
    def of(cls, x: Tensor, weight: Tensor | None, *, row: int = 0, allow_nan: bool = False) -> Summary:
        """The summary of `b x D` rows with `(b,)` weights.

        Args:
            x: The rows.
            weight: Their weights, 1 by default.
            row: Number of the first row, for the message of an error.
            allow_nan: Whether NaN stands for a missing value.

        Raises:
            ValueError: If a value is not finite, or a weight is negative or not finite.
        """
        part = x.double()
        low, high = part.aminmax(dim=0)
        complete = bool((low.isfinite() & high.isfinite()).all())
        if not complete:
            check_rows(x, row, allow_nan=allow_nan)
        check_weights_of_rows(weight, row)
        own = part.new_ones(len(x)) if weight is None else weight
        if complete:
            weights = own.sum().expand(x.shape[1])
            mean = own @ part / weights.clamp_min(_TINY)
            squares = own @ (part - mean).square()
        else:
            observed = ~part.isnan()
            weights = own @ observed.double()
            mean = own @ part.where(observed, 0.0) / weights.clamp_min(_TINY)
            squares = own @ (part.where(observed, mean) - mean).square()
            low, high = part.where(observed, torch.inf).amin(0), part.where(observed, -torch.inf).amax(0)
        return cls(len(x), float(own.sum()), weights, mean, squares, low, high, x.dtype, x.device)

    def __add__(self, other: Summary) -> Summary:
        weights = self.weights + other.weights
        fraction = other.weights / weights.clamp_min(_TINY)
        between = other.mean - self.mean
        return replace(
            self,
            count=self.count + other.count,
            weight=self.weight + other.weight,
            weights=weights,
            mean=self.mean + fraction * between,
            squares=self.squares + other.squares + self.weights * fraction * between.square(),
            low=torch.minimum(self.low, other.low),
            high=torch.maximum(self.high, other.high),
        )

    def to(self, device: torch.device) -> Summary:
        """The same numbers on another device."""
        names = ("weights", "mean", "squares", "low", "high")
        return replace(self, device=device, **{name: getattr(self, name).to(device) for name in names})


def check_rows(x: Tensor, row: int = 0, *, allow_nan: bool = False) -> None:
    """Refuse `b x D` rows, numbered from `row`, with values that are not finite; with `allow_nan` NaN is accepted.

    Raises:
        ValueError: If there is such a value; the message names its row.
    """
    refused = (x.isinf() if allow_nan else ~x.isfinite()).any(1)
    if bool(refused.any()):
        first = int(refused.nonzero()[0])
        value = "infinity" if bool(x[first].isinf().any()) else "NaN"
        remedy = "drop or mend the row (masked values are NaN)"
        remedy = "drop the row, or mark what is missing by NaN" if allow_nan else remedy
        raise ValueError(f"Expected finite points; got {value} in row {row + first}: {remedy}.")


def check_weights_of_rows(weight: Tensor | None, row: int = 0) -> None:
    """Refuse `(b,)` weights of rows, numbered from `row`, that are negative or not finite.

    Raises:
        ValueError: If there is such a weight; the message names its row.
    """
    if weight is None or bool((weight.isfinite() & (weight >= 0)).all()):
        return
    first = int((~(weight.isfinite() & (weight >= 0))).nonzero()[0])
    raise ValueError(
        f"Expected sample_weight finite and not negative; got {float(weight[first])} in row {row + first}."
    )
