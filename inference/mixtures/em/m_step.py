"""The M step of Gaussian mixtures: the parameters of greatest likelihood under given responsibilities."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latentmix.inference.mixtures.em.covariance_priors import CovariancePrior
from latentmix.inference.mixtures.em.statistics import SufficientStatistics
from latentmix.inference.mixtures.points.points import Points
from latentmix.models.mixture.covariances import LEAST_COLLINEARITY
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["JITTERS", "keep_empty", "maximize", "repair", "sharpen"]

# Jitters that `repair` tries in turn, relative to the variances of the data.
JITTERS = (1e-10, 1e-8, 1e-6, 1.0)
# Collinearity (see `MixtureParameters`) below which moments no longer hold the digits of covariances.
_COLLINEAR = 1e-5
_CHUNK = 4_000_000  # doubles of one chunk's n x K x D


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
    structure, counts, covariances = statistics.structure, statistics.divisors, statistics.covariances
    if prior is not None:
        covariances = prior.mode(counts, covariances)
    if reg_covar > 0:
        covariances = structure.regularize(covariances, reg_covar)
    means = statistics.centres + statistics.shift
    return repair(MixtureParameters(counts / counts.sum(), means, covariances, structure), variance)


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
        if parameters.regular:
            break
        repaired = True
        jitter = level * variance * parameters.singular[:, None]
        covariances = parameters.structure.regularize(parameters.covariances.nan_to_num(0.0), jitter)
        parameters = MixtureParameters(parameters.weights, parameters.means, covariances, parameters.structure)
    return parameters, repaired


def keep_empty(statistics: SufficientStatistics) -> SufficientStatistics:
    """Statistics that give empty components the mean and covariance of the heaviest one, and leave their counts.

    Data say nothing of empty components, and their counts are so small that this changes no density.
    """
    if not statistics.any_empty:
        return statistics
    empty = statistics.empty
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


def sharpen(
    points: Points, before: MixtureParameters, after: MixtureParameters, jittered: bool, reg_covar: float
) -> tuple[MixtureParameters, bool]:
    r"""Repeat an M step where features are so close to collinear that moments lose the digits of covariances.

    Deviations are whitened by the factors :math:`U_k` of the first outcome, so that their second moments
    :math:`S_k`, with `reg_covar` :math:`\epsilon`, are well conditioned, and the factors of the precisions become
    :math:`U_k R_k^{-\top}` for the Cholesky factors :math:`R_k` of :math:`S_k + \epsilon\, U_k^\top U_k`. They have
    the digits of the points, as those of a QR decomposition would.

    Args:
        points: Complete points without noise.
        before: The mixture of the E step.
        after: The outcome of the M step.
        jittered: Whether a singular covariance of it got a jitter.
        reg_covar: Variance added to every feature.

    Returns:
        The mixture with sharper covariances, and whether one still has a jitter; as it was where digits suffice, or
        where a covariance is singular all the same.
    """
    structure, n_features = after.structure, after.means.shape[1]
    if not structure.correlated or n_features == 1:
        return after, jittered
    if not points.processes.agree(jittered or after.collinearity < _COLLINEAR):
        return after, jittered
    whitening = after.precisions_cholesky
    white = points.reduce(lambda: _whitened(points, before, after))
    counts = white.counts.sum(0, keepdim=True) if structure.shared else white.counts
    occupied = (counts > 1e-12 * counts.sum())[:, None, None]
    identity = torch.eye(n_features).to(white.scatter)
    squares = torch.where(occupied, white.scatter / counts[:, None, None], identity).view_as(white.scatter)
    factors, info = torch.linalg.cholesky_ex(squares + reg_covar * whitening.mT @ whitening)
    if bool(info.any()):
        return after, jittered
    precisions_cholesky = torch.linalg.solve_triangular(factors, whitening.mT, upper=False).mT
    sharp = MixtureParameters.from_precisions_cholesky(after.weights, after.means, precisions_cholesky, structure)
    return (sharp, False) if sharp.collinearity >= LEAST_COLLINEARITY else (after, jittered)


@dataclass(frozen=True)
class _Whitened:
    """Second moments of whitened deviations, in the shape of the covariances, and the components' counts, `(K,)`."""

    scatter: Tensor
    counts: Tensor


@torch.no_grad()
def _whitened(points: Points, before: MixtureParameters, after: MixtureParameters) -> _Whitened:
    """Second moments of the whitened deviations of this process's points."""
    structure = after.structure
    scatter, counts = torch.zeros_like(after.covariances), torch.zeros_like(after.weights)
    for x, weight in points.chunks(max(1, _CHUNK // after.means.numel())):
        part = x.double()
        responsibilities = before.responsibilities(part)
        if weight is not None:
            responsibilities = responsibilities * weight[:, None]
        deviations = structure.whiten(part - after.means[:, None], after.precisions_cholesky)
        scatter += structure.scatter(responsibilities, deviations.transpose(0, 1))
        counts += responsibilities.sum(0)
    return _Whitened(scatter, counts)
