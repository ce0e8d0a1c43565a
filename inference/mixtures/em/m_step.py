"""The M step of Gaussian mixtures: the parameters of greatest likelihood under given responsibilities."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from latentmix.inference.mixtures.em.covariance_priors import CovariancePrior
from latentmix.inference.mixtures.em.statistics import SufficientStatistics
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["JITTERS", "keep_empty", "maximize", "repair"]

# Jitters that `repair` tries in turn, relative to the variances of the data.
JITTERS = (1e-10, 1e-8, 1e-6, 1.0)


def maximize(
    statistics: SufficientStatistics,
    reg_covar: float,
    variance: Tensor,
    prior: CovariancePrior | None = None,
) -> tuple[MixtureParameters, bool]:
    """The M step (Bishop, 2006, equations 9.24 to 9.26), with `reg_covar` added to the diagonals.

    Args:
        statistics: Of the data under responsibilities.
        reg_covar: Variance added to every feature.
        variance: `(D,)` variances of the data: a singular covariance gets a jitter relative to them.
        prior: Prior of the covariances, which are then the mode of their posterior.

    Returns:
        The parameters, finite and positive definite, and whether a jitter was needed.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.em.m_step import maximize
        >>> from latentmix.inference.mixtures.em.statistics import SufficientStatistics
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> x = torch.tensor([[1.0], [3.0]]).double()
        >>> statistics = SufficientStatistics.of(x, torch.ones(2, 1).double(), x[:1], covariance_structure("diag"))
        >>> maximize(statistics, 0.0, torch.ones(1).double())[0].covariances
        tensor([[1.]], dtype=torch.float64)
    """
    structure, counts = statistics.structure, statistics.divisors
    shift = statistics.sums / counts[:, None]
    covariances = structure.estimate(counts, statistics.scatter, shift)
    if prior is not None:
        covariances = prior.mode(counts, covariances)
    covariances = structure.regularize(covariances, torch.full_like(variance, reg_covar))
    parameters = MixtureParameters(counts / counts.sum(), statistics.centres + shift, covariances, structure)
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
    for level in JITTERS:
        singular = parameters.singular
        if not bool(singular.any()):
            break
        repaired = True
        jitter = level * variance * singular[:, None]
        covariances = parameters.structure.regularize(parameters.covariances.nan_to_num(0.0), jitter)
        parameters = MixtureParameters(parameters.weights, parameters.means, covariances, parameters.structure)
    return parameters, repaired


def keep_empty(statistics: SufficientStatistics) -> SufficientStatistics:
    """Statistics that give empty components the mean and covariance of the heaviest one, and leave their counts.

    Data say nothing of empty components, and their counts are so small that this changes no density.
    """
    empty = statistics.empty
    if not bool(empty.any()):
        return statistics
    heaviest = statistics.counts.argmax()
    ratio = statistics.divisors / statistics.divisors[heaviest]

    def copied(values: Tensor, factor: Tensor) -> Tensor:
        shape = (-1, *[1] * (values.ndim - 1))
        return torch.where(empty.reshape(shape), values[heaviest] * factor.reshape(shape), values)

    shared = statistics.structure.shared
    return replace(
        statistics,
        centres=copied(statistics.centres, torch.ones_like(ratio)),
        sums=copied(statistics.sums, ratio),
        scatter=statistics.scatter if shared else copied(statistics.scatter, ratio),
    )
