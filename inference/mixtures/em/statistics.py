"""Additive sufficient statistics of Gaussian mixtures: the E step, and the M step that takes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from latentmix.inference.mixtures.em.covariance_priors import CovariancePrior
from latentmix.inference.mixtures.em.kernels import Centred, Expanded, Kernel, accurate
from latentmix.inference.mixtures.points.points import Points, as_points
from latentmix.models.mixture.covariances import LEAST_COLLINEARITY, CovarianceStructure
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["JITTERS", "SufficientStatistics", "expectation", "moments", "repair", "sharpened", "slices", "stored"]

_CHUNK = 4_000_000
# What `repair` tries in turn, relative to the variances of the data.
JITTERS = (1e-10, 1e-8, 1e-6, 1.0)
# Second moments of all local points about their location, which every E step with tied covariances needs.
_TOTALS: WeakKeyDictionary[Points, Tensor] = WeakKeyDictionary()


@final
@dataclass(frozen=True)
class SufficientStatistics:
    r"""What the M step needs to know of the data; statistics of disjoint data add up, about the first one's centres.

    With responsibilities :math:`r_{nk}`, already times the sample weights, and centres :math:`c_k`:
    `counts` :math:`\sum_n r_{nk}`, `sums` :math:`\sum_n r_{nk} (x_n - c_k)`, `scatter`
    :math:`\sum_n r_{nk} (x_n - c_k)(x_n - c_k)^\top`, as much of it as the structure needs. Moments about centres
    near the means lose no digits to cancellation, however far from the origin the data lie.

    Args:
        counts: `(K,)`.
        sums: `K x D`.
        scatter: `K x D x D` (full), `D x D` (tied) or `K x D` (spherical: only its means over the features count).
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

    @classmethod
    def of_parameters(cls, parameters: MixtureParameters, weight: float) -> SufficientStatistics:
        """Statistics of data of that total weight of which the parameters are the M step: where a fit starts."""
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
        if self.structure.name in ("full", "tied"):
            cross = sums[:, :, None] * move[:, None, :]
            change = cross + cross.mT + counts[:, None, None] * move[:, :, None] * move[:, None, :]
            change = change if self.structure.name == "full" else change.sum(0)
        else:
            change = (2 * sums + counts[:, None] * move) * move
            change = change.mean(1, keepdim=True) if self.structure.isotropic else change
        return replace(self, sums=sums + counts[:, None] * move, scatter=self.scatter + change, centres=centres)

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

    @property
    def bound(self) -> float:
        """Mean log-density of the data under the parameters of the E step."""
        return float(self.log_likelihood / self.weight)

    @property
    def empty(self) -> Tensor:
        """Whether each component's count is below 1e-12 of the weight: `(K,)` booleans."""
        return self.counts <= 1e-12 * self.weight

    @property
    def divisors(self) -> Tensor:
        """Counts that can be divided by, raised by less than rounding errors of them: `(K,)`."""
        return self.counts + 10 * torch.finfo(self.counts.dtype).eps * self.weight.clamp_max(1.0)

    def maximize(
        self, reg_covar: float, variance: Tensor, prior: CovariancePrior | None = None
    ) -> tuple[MixtureParameters, bool]:
        """The M step (Bishop, 2006, equations 9.24 to 9.26), `reg_covar` added to the diagonals.

        Args:
            reg_covar: Variance added to every feature.
            variance: `(D,)` variances of the data: a singular covariance gets a jitter relative to them.
            prior: Under one, the covariances are the mode of their posterior.

        Returns:
            The parameters, finite and positive definite, and whether a jitter was needed.
        """
        counts = self.divisors
        shift = self.sums / counts[:, None]
        covariances = self.structure.estimate(counts, self.scatter, shift)
        if prior is not None:
            covariances = prior.mode(counts, covariances)
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
    for level in JITTERS:
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


def expectation(
    points: Tensor | Points, parameters: MixtureParameters, sample_weight: Tensor | None = None
) -> SufficientStatistics:
    """The E step: statistics of points under the posterior probabilities of the components.

    Log-densities are quadratic in the points: where `expansion_error` is at most 1e-10, all of them are one matrix
    product with features about the points' location, and all moments are another. Elsewhere, or where a covariance
    shrinks a thousandfold in one step, deviations are taken from each component's mean. Blocks of rows stay in the
    cache, in float64 once they are centred.

    Args:
        points: `n x D` points in any floating dtype, or `Points`.
        parameters: The mixture, in float64.
        sample_weight: `(n,)` weights of a tensor; `Points` hold their own.

    Returns:
        Statistics in float64, about the points' location or the parameters' means; of `Points` those of all
        processes.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.em.statistics import expectation
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> from latentmix.models.mixture.parameters import MixtureParameters
        >>> zeros, ones = torch.zeros(1, 2).double(), torch.ones(1, 2).double()
        >>> mixture = MixtureParameters(torch.ones(1).double(), zeros, ones, covariance_structure("diag"))
        >>> expectation(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), mixture).counts
        tensor([2.], dtype=torch.float64)
    """
    points = as_points(points, sample_weight)
    agree = points.processes.agree  # where processors differ, so may last digits
    if agree(accurate(parameters, points.location, points.variance, points.radius)):
        kernel = Expanded(parameters, points.location, _TOTALS.get(points))
        found = points.reduce(lambda: _passed(points, kernel))
        if parameters.structure.name == "tied":
            _TOTALS[points] = kernel.total
        if not agree(_shrunk(found, parameters)):
            return found
    return points.reduce(lambda: _passed(points, Centred(parameters)))


@torch.no_grad()
def _passed(points: Points, kernel: Kernel) -> SufficientStatistics:
    """The local points' statistics, by one pass of the kernel."""
    log_likelihood = kernel.parameters.means.new_zeros(())
    total = torch.zeros_like(log_likelihood)
    kernel.space = points.space
    for x, weight in points.columns(kernel.rows):
        joint, shares = kernel.load(x), kernel.shares
        greatest = torch.amax(joint, 0)
        torch.sub(joint, greatest, out=shares).exp_()
        summed = shares.sum(0)
        if weight is None:
            log_likelihood += greatest.sum() + summed.log().sum()
            total += len(x)
            shares.mul_(summed.reciprocal_())
        else:
            log_likelihood += greatest.add_(summed.log()) @ weight
            total += weight.sum()
            shares.mul_(weight / summed)
        kernel.add(weight)
    points.space = kernel.space
    counts, moments, scatter, centres = kernel.moments()
    structure = kernel.parameters.structure
    if structure.name == "tied" and isinstance(kernel, Expanded):
        log_likelihood = (
            log_likelihood - 0.5 * (structure.precisions(kernel.parameters.precisions_cholesky) * scatter).sum()
        )
    return SufficientStatistics(counts, moments, scatter, centres, log_likelihood, total, structure)


def _shrunk(statistics: SufficientStatistics, parameters: MixtureParameters) -> bool:
    """Whether a covariance is less than a thousandth of what it was, in any direction: moments lost its digits."""
    structure, factors = parameters.structure, parameters.precisions_cholesky
    counts = statistics.counts.clamp_min(torch.finfo(torch.float64).tiny)
    now = structure.estimate(counts, statistics.scatter, statistics.sums / counts[:, None])
    if structure.name in ("full", "tied"):
        ratio = factors.mT @ now @ factors
        ratio.diagonal(dim1=-2, dim2=-1).sub_(1e-3)
        small = torch.linalg.cholesky_ex(ratio).info > 0
    else:
        small = now * structure.precisions(factors) < 1e-3
        small = small.any(1) if small.ndim > 1 else small
    return bool((small & ~statistics.empty).any())


def sharpened(
    points: Points, before: MixtureParameters, after: MixtureParameters, reg_covar: float
) -> MixtureParameters | None:
    r"""The M step once more where features are so close to collinear that covariances lose the digits of moments.

    Deviations are whitened by the factors :math:`U_k` of a first outcome, so that their second moments
    :math:`S_k`, with `reg_covar` :math:`\epsilon`, are well conditioned, and the factors of the precisions become
    :math:`U_k R_k^{-\top}` for the Cholesky factors :math:`R_k` of :math:`S_k + \epsilon\, U_k^\top U_k`. They have
    the digits of the points, as those of a QR decomposition would.

    Args:
        points: The points.
        before: The mixture of the E step.
        after: The outcome of the M step, full or tied, with a jitter where that was singular.
        reg_covar: Variance added to every feature.

    Returns:
        The mixture with sharper covariances; `None` where one of them is singular all the same.
    """
    structure, whitening = after.structure, after.precisions_cholesky
    found = points.reduce(lambda: _whitened(points, before, after))
    counts = found.counts if structure.name == "full" else found.counts.sum(0, keepdim=True)
    occupied = (counts > 1e-12 * counts.sum())[:, None, None]
    identity = torch.eye(after.means.shape[1]).to(found.scatter)
    squares = torch.where(occupied, found.scatter / counts[:, None, None], identity).view_as(found.scatter)
    factors, info = torch.linalg.cholesky_ex(squares + reg_covar * whitening.mT @ whitening)
    if bool(info.any()):
        return None
    precisions_cholesky = torch.linalg.solve_triangular(factors, whitening.mT, upper=False).mT
    sharp = MixtureParameters.from_precisions_cholesky(after.weights, after.means, precisions_cholesky, structure)
    return sharp if sharp.collinearity >= LEAST_COLLINEARITY else None


@dataclass(frozen=True)
class _Whitened:
    """Second moments of whitened deviations, `K x D x D` or `D x D`, and the components' counts, `(K,)`."""

    scatter: Tensor
    counts: Tensor


@torch.no_grad()
def _whitened(points: Points, before: MixtureParameters, after: MixtureParameters) -> _Whitened:
    """Those of this process's points."""
    scatter, counts = torch.zeros_like(after.covariances), torch.zeros_like(after.weights)
    for x, weight in points.chunks(max(1, _CHUNK // after.means.numel())):
        part = x.double()
        shares = before.log_joint(part).softmax(1)
        shares = shares if weight is None else shares * weight[:, None]
        deviations = (part[:, None, :] - after.means).transpose(0, 1) @ after.precisions_cholesky
        scatter += after.structure.scatter(shares, deviations.transpose(0, 1))
        counts += shares.sum(0)
    return _Whitened(scatter, counts)


def moments(x: Tensor, sample_weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and variance of each feature, `(D,)` in float64; a constant feature takes the mean variance, or 1."""
    points = as_points(x, sample_weight)
    return points.location, points.variance


def stored(structure: CovarianceStructure, scatter: Tensor) -> Tensor:
    """As much of `K x D x D` second moments as the structure needs."""
    if structure.name == "full":
        return scatter
    return scatter.sum(0) if structure.name == "tied" else scatter.diagonal(dim1=-2, dim2=-1)
