"""Additive sufficient statistics of Gaussian mixtures: the E step, and the M step that takes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from latentmix.models.covariances import CovarianceStructure
from latentmix.models.parameters import MixtureParameters

__all__ = ["SufficientStatistics", "expectation", "moments", "repair", "slices", "stored"]

_CHUNK = 4_000_000


@final
@dataclass(frozen=True)
class SufficientStatistics:
    r"""What the M step needs to know of the data; statistics of disjoint data about the same centres add up.

    With responsibilities :math:`r_{nk}`, already times the sample weights, and centres :math:`c_k`:
    `counts` :math:`\sum_n r_{nk}`, `sums` :math:`\sum_n r_{nk} (x_n - c_k)`, `scatter`
    :math:`\sum_n r_{nk} (x_n - c_k)(x_n - c_k)^\top`, as much of it as the structure needs. Moments about centres
    near the means lose no digits to cancellation, however far from the origin the data lie.

    Args:
        counts: `(K,)`.
        sums: `K x D`.
        scatter: `K x D x D` (full), `D x D` (tied) or `K x D`.
        centres: `K x D`.
        log_likelihood: Weighted sum of the data's log-densities.
        weight: Sum of the sample weights.
        structure: What the covariances share.
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

    def __add__(self, other: SufficientStatistics) -> SufficientStatistics:
        return SufficientStatistics(
            self.counts + other.counts,
            self.sums + other.sums,
            self.scatter + other.scatter,
            self.centres,
            self.log_likelihood + other.log_likelihood,
            self.weight + other.weight,
            self.structure,
        )

    @property
    def bound(self) -> float:
        """Mean log-density of the data under the parameters of the E step."""
        return float(self.log_likelihood / self.weight)

    @property
    def empty(self) -> Tensor:
        """Whether each component's count is below 1e-12 of the weight: `(K,)` booleans."""
        return self.counts <= 1e-12 * self.weight

    def maximize(self, reg_covar: float, variance: Tensor) -> tuple[MixtureParameters, bool]:
        """The M step (Bishop, 2006, equations 9.24 to 9.26), `reg_covar` added to the diagonals.

        Args:
            reg_covar: Variance added to every feature.
            variance: `(D,)` variances of the data: a singular covariance gets a jitter relative to them.

        Returns:
            The parameters, finite and positive definite, and whether a jitter was needed.
        """
        counts = self.counts + 10 * torch.finfo(self.counts.dtype).eps
        shift = self.sums / counts[:, None]
        covariances = self.structure.estimate(counts, self.scatter, shift)
        floor = torch.full_like(variance, reg_covar)
        parameters = MixtureParameters(
            counts / counts.sum(),
            self.centres + shift,
            self.structure.regularize(covariances, floor),
            self.structure,
        )
        return repair(parameters, variance)


def repair(parameters: MixtureParameters, variance: Tensor) -> tuple[MixtureParameters, bool]:
    """Give singular covariances a jitter relative to the variances of the data, growing until it is enough.

    Args:
        parameters: A mixture.
        variance: `(D,)` variances of the data.

    Returns:
        The mixture, positive definite, and whether a jitter was needed.
    """
    repaired = False
    for level in (1e-10, 1e-8, 1e-6, 1.0):
        singular = parameters.singular
        if not bool(singular.any()):
            break
        repaired = True
        jitter = level * variance * singular[:, None]
        covariances = parameters.structure.regularize(parameters.covariances.nan_to_num(0.0), jitter)
        parameters = MixtureParameters(parameters.weights, parameters.means, covariances, parameters.structure)
    return parameters, repaired


def slices(x: Tensor, n_components: int) -> Iterator[slice]:
    """Slices of the rows of `x` such that `n x K x D` floats stay below 32 MB."""
    rows = max(1, _CHUNK // (n_components * max(x.shape[1], 1)))
    for first in range(0, len(x), rows):
        yield slice(first, first + rows)


def expectation(x: Tensor, parameters: MixtureParameters, sample_weight: Tensor | None = None) -> SufficientStatistics:
    """The E step: statistics of `n x D` points, about the parameters' means.

    Args:
        x: `n x D` points in any floating dtype; chunks of them are taken to float64.
        parameters: The mixture, in float64.
        sample_weight: `(n,)` weights.
    """
    total = None
    for rows in slices(x, len(parameters.weights)):
        part = x[rows].double()
        joint = parameters.log_joint(part)
        density = joint.logsumexp(1)
        statistics = SufficientStatistics.of(
            part,
            (joint - density[:, None]).exp(),
            parameters.means,
            parameters.structure,
            sample_weight=None if sample_weight is None else sample_weight[rows],
            log_likelihood=density,
        )
        total = statistics if total is None else total + statistics
    assert total is not None
    return total


def moments(x: Tensor, sample_weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and variance of each feature, `(D,)` in float64; a constant feature takes the mean variance, or 1."""
    mean = x.new_zeros(x.shape[1], dtype=torch.float64)
    weight = x.new_ones(len(x), dtype=torch.float64) if sample_weight is None else sample_weight
    for rows in slices(x, 1):
        mean += weight[rows] @ x[rows].double()
    mean /= weight.sum()
    variance = torch.zeros_like(mean)
    for rows in slices(x, 1):
        variance += weight[rows] @ (x[rows].double() - mean).square()
    variance /= weight.sum()
    fallback = variance.mean() if bool(variance.mean() > 0) else torch.ones_like(variance[0])
    constant = variance <= 1e-24 * mean.square()
    return mean, torch.where(constant | (variance <= 0), fallback, variance)


def stored(structure: CovarianceStructure, scatter: Tensor) -> Tensor:
    """As much of `K x D x D` second moments as the structure needs."""
    if structure.name == "full":
        return scatter
    return scatter.sum(0) if structure.name == "tied" else scatter.diagonal(dim1=-2, dim2=-1)
