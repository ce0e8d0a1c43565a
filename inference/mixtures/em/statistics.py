"""Additive sufficient statistics of Gaussian mixtures."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from latentmix.inference.mixtures.points.points import as_points
from latentmix.models.display import Displayed
from latentmix.models.mixture.covariances import CovarianceStructure
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["SufficientStatistics", "moments"]


@final
@dataclass(frozen=True, repr=False)
class SufficientStatistics(Displayed):
    r"""Weighted moments of data under responsibilities; those of disjoint data add up, about the centres of the first.

    With responsibilities :math:`r_{nk}`, already times the sample weights, and centres :math:`c_k`:
    `counts` :math:`\sum_n r_{nk}`, `sums` :math:`\sum_n r_{nk} (x_n - c_k)`, `scatter`
    :math:`\sum_n r_{nk} (x_n - c_k)(x_n - c_k)^\top`, as much of it as the structure needs. Moments about centres
    near the means lose no digits to cancellation, however far from the origin the data lie.

    Args:
        counts: `(K,)`.
        sums: `K x D`.
        scatter: As `CovarianceStructure.estimate` takes it, such as `K x D x D` for full covariances.
        centres: `K x D`.
        log_likelihood: Weighted sum of the data's log-densities.
        weight: Sum of the sample weights.
        structure: The covariance structure.
    """

    counts: Tensor
    sums: Tensor
    scatter: Tensor
    centres: Tensor
    log_likelihood: Tensor
    weight: Tensor
    structure: CovarianceStructure

    @classmethod
    def of(
        cls,
        x: Tensor,
        responsibilities: Tensor,
        centres: Tensor,
        structure: CovarianceStructure,
        *,
        sample_weight: Tensor | None = None,
        log_likelihood: Tensor | None = None,
    ) -> SufficientStatistics:
        """Statistics of `n x D` points under `n x K` responsibilities and `(n,)` weights, all in float64."""
        if sample_weight is not None:
            responsibilities = responsibilities * sample_weight[:, None]
        deviations = x[:, None, :] - centres
        density = x.new_zeros(len(x)) if log_likelihood is None else log_likelihood
        return cls(
            counts=responsibilities.sum(0),
            sums=torch.einsum("nk,nkd->kd", responsibilities, deviations),
            scatter=structure.scatter(responsibilities, deviations),
            centres=centres,
            log_likelihood=density.sum() if sample_weight is None else density @ sample_weight,
            weight=x.new_tensor(float(len(x))) if sample_weight is None else sample_weight.sum(),
            structure=structure,
        )

    @classmethod
    def of_parameters(cls, parameters: MixtureParameters, weight: float) -> SufficientStatistics:
        """Statistics of data of that total weight whose M step gives the parameters."""
        counts = parameters.weights * weight
        return cls(
            counts=counts,
            sums=torch.zeros_like(parameters.means),
            scatter=parameters.structure.pool(counts, parameters.covariances),
            centres=parameters.means,
            log_likelihood=counts.new_zeros(()),
            weight=counts.sum(),
            structure=parameters.structure,
        )

    def about(self, centres: Tensor) -> SufficientStatistics:
        """The same statistics about other `K x D` centres; far ones cost digits."""
        if centres is self.centres:
            return self
        move, counts, sums = self.centres - centres, self.counts, self.sums
        if self.structure.correlated:
            cross = sums[:, :, None] * move[:, None, :]
            change = cross + cross.mT + counts[:, None, None] * move[:, :, None] * move[:, None, :]
        else:
            change = (2 * sums + counts[:, None] * move) * move
            change = change.mean(1, keepdim=True).expand_as(change) if self.structure.isotropic else change
        scatter = self.scatter + self.structure.scatter_of(change)
        return replace(self, sums=sums + counts[:, None] * move, scatter=scatter, centres=centres)

    def __add__(self, other: SufficientStatistics) -> SufficientStatistics:
        other = other.about(self.centres)
        return SufficientStatistics(
            self.counts + other.counts,
            self.sums + other.sums,
            self.scatter + other.scatter,
            self.centres,
            self.log_likelihood + other.log_likelihood,
            self.weight + other.weight,
            self.structure,
        )

    def __mul__(self, factor: float) -> SufficientStatistics:
        return SufficientStatistics(
            self.counts * factor,
            self.sums * factor,
            self.scatter * factor,
            self.centres,
            self.log_likelihood * factor,
            self.weight * factor,
            self.structure,
        )

    @cached_property
    def _total(self) -> float:
        return float(self.weight)

    @property
    def bound(self) -> float:
        """Mean log-density of the data under the parameters of the E step.

        Raises:
            ValueError: If it is not finite, as where the square of a point's distance from every component overflows.
        """
        bound = float(self.log_likelihood) / self._total
        if not math.isfinite(bound):
            raise ValueError(
                f"Expected points whose log-likelihood is finite; got {bound}: leave out points that lie far from all "
                "others, or start from wider covariances."
            )
        return bound

    @property
    def empty(self) -> Tensor:
        """Whether each component's count is below 1e-12 of the weight: `(K,)` booleans."""
        return self.counts <= 1e-12 * self.weight

    @cached_property
    def any_empty(self) -> bool:
        """Whether a component is empty."""
        return float(self.counts.amin()) <= 1e-12 * self._total

    @cached_property
    def divisors(self) -> Tensor:
        """`(K,)` counts plus ten epsilons, as in scikit-learn, so that an empty component does not divide by zero."""
        return self.counts + 10 * torch.finfo(self.counts.dtype).eps * min(self._total, 1.0)

    @cached_property
    def shift(self) -> Tensor:
        """`K x D` means of the components, less the centres."""
        return self.sums / self.divisors.unsqueeze(1)

    @cached_property
    def covariances(self) -> Tensor:
        """Maximum-likelihood covariances in their stored shape."""
        return self.structure.estimate(self.divisors, self.scatter, self.shift)


def moments(x: Tensor, sample_weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and variance of each feature, `(D,)` in float64; a constant feature takes the mean variance, or 1."""
    points = as_points(x, sample_weight)
    return points.location, points.variance
