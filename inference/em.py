"""Expectation maximisation for Gaussian mixtures, by additive sufficient statistics."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from latentmix.models.covariances import CovarianceStructure
from latentmix.models.parameters import MixtureParameters

__all__ = ["EMResult", "SufficientStatistics", "expectation", "fit_em", "moments", "reseed", "slices"]

_CHUNK = 4_000_000
_MAX_RESEEDS = 10


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


@dataclass(frozen=True)
class EMResult:
    """Outcome of EM.

    Attributes:
        parameters: The fitted mixture, in float64.
        lower_bounds: Mean log-likelihood of the data before each M step, nats per datum.
        converged: Whether the bound last changed by less than the tolerance.
        n_reseeded: Empty components that were started anew; the bound may fall there.
        n_repaired: M steps in which a singular covariance got a jitter.
    """

    parameters: MixtureParameters
    lower_bounds: list[float]
    converged: bool
    n_reseeded: int = 0
    n_repaired: int = 0

    @property
    def n_iter(self) -> int:
        """Number of iterations."""
        return len(self.lower_bounds)


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


def reseed(x: Tensor, parameters: MixtureParameters, empty: Tensor, variance: Tensor) -> MixtureParameters:
    """Start empty components anew, each at the worst explained point, as wide as the data.

    Args:
        x: `n x D` points.
        parameters: The mixture.
        empty: `(K,)` booleans.
        variance: `(D,)` variances of the data.
    """
    alive = MixtureParameters(
        parameters.weights.where(~empty, 0.0), parameters.means, parameters.covariances, parameters.structure
    )
    density = torch.cat([alive.log_likelihood(x[rows].double()) for rows in slices(x, len(empty))])
    worst = density.argsort()[: int(empty.sum())]
    means = parameters.means.clone()
    means[empty] = x[worst].double()
    weights = torch.where(empty, 1.0 / len(empty), parameters.weights)
    covariances = parameters.covariances
    if parameters.structure.name != "tied":
        wide = parameters.structure.regularize(torch.zeros_like(covariances), variance)
        covariances = torch.where(empty.reshape(-1, *[1] * (covariances.ndim - 1)), wide, covariances)
    return MixtureParameters(weights / weights.sum(), means, covariances, parameters.structure)


def fit_em(
    x: Tensor,
    start: MixtureParameters,
    *,
    sample_weight: Tensor | None = None,
    reg_covar: float = 1e-6,
    tol: float = 1e-3,
    max_iter: int = 100,
    previous: float = -float("inf"),
    report: Callable[[int, float], None] | None = None,
) -> EMResult:
    """Fit a Gaussian mixture by EM (Dempster, Laird and Rubin, 1977).

    With `reg_covar = 0` the bound never falls, apart from where an empty component is started anew or a
    singular covariance gets a jitter, both of which warn.

    Args:
        x: `n x D` points.
        start: The mixture to start from.
        sample_weight: `(n,)` weights, not negative.
        reg_covar: Variance added to the diagonals in every M step.
        tol: EM ends when the bound changes by less, in nats per datum.
        max_iter: Most iterations.
        previous: The bound before the first iteration, where an earlier fit goes on.
        report: Called with the iteration and the change of the bound.

    Returns:
        The fitted mixture and the bounds on the way.

    Example:
        >>> import torch
        >>> from latentmix.inference.em import fit_em
        >>> from latentmix.models.parameters import MixtureParameters
        >>> from latentmix.models.covariances import covariance_structure
        >>> x = torch.tensor([[-1.0], [-1.2], [0.9], [1.1]])
        >>> means, spherical = torch.tensor([[-1.0], [1.0]]), covariance_structure("spherical")
        >>> start = MixtureParameters(torch.tensor([0.5, 0.5]), means, torch.ones(2), spherical)
        >>> fit_em(x, start).parameters.means.shape
        torch.Size([2, 1])
    """
    parameters = start.to(torch.empty(0, dtype=torch.float64, device=x.device))
    weight = None if sample_weight is None else sample_weight.double()
    _, variance = moments(x, weight)
    bounds: list[float] = []
    reseeded = repaired = 0
    for iteration in range(1, max_iter + 1):
        statistics = expectation(x, parameters, weight)
        parameters, jittered = statistics.maximize(reg_covar, variance)
        repaired += jittered
        empty = statistics.empty
        revive = bool(empty.any()) and reseeded < _MAX_RESEEDS and len(x) > len(empty)
        if revive:
            parameters = reseed(x, parameters, empty, variance)
            reseeded += int(empty.sum())
        bounds.append(statistics.bound)
        change = bounds[-1] - previous
        if report is not None:
            report(iteration, change)
        if abs(change) < tol and not revive:
            return _warned(EMResult(parameters, bounds, True, reseeded, repaired))
        previous = -float("inf") if revive else bounds[-1]
    return _warned(EMResult(parameters, bounds, False, reseeded, repaired))


def _warned(result: EMResult) -> EMResult:
    if result.n_reseeded:
        warnings.warn(
            f"{result.n_reseeded} empty components were started anew at the worst explained points: fewer components "
            "may do.",
            ConvergenceWarning,
            stacklevel=3,
        )
    if result.n_repaired:
        warnings.warn(
            f"Singular covariances got a jitter in {result.n_repaired} iterations: raise reg_covar, or use fewer "
            "components.",
            ConvergenceWarning,
            stacklevel=3,
        )
    return result
