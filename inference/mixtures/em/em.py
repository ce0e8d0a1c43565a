"""Expectation maximisation for Gaussian mixtures, of points that are exact or have noise of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from latentmix.inference.mixtures.em.covariance_priors import CovariancePrior
from latentmix.inference.mixtures.em.deconvolution import expectation_under_noise
from latentmix.inference.mixtures.em.empty import occupied, reseed, warn_of_empty
from latentmix.inference.mixtures.em.statistics import SufficientStatistics, expectation, sharpened
from latentmix.inference.mixtures.points.points import Points, as_points
from latentmix.inference.mixtures.progress import warn
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["EMResult", "EStep", "fit_em"]

_MAX_RESEEDS = 10
# A fall of the bound that rounding alone accounts for, relative to its size.
_ROUNDING = 1e-12
# Collinearity (see `MixtureParameters`) below which the digits of covariances no longer suffice.
_COLLINEAR = 1e-5

EStep = Callable[..., SufficientStatistics]


@dataclass(frozen=True)
class EMResult:
    """Outcome of EM.

    Attributes:
        parameters: The fitted mixture, in float64.
        lower_bounds: Mean log-likelihood of the data before each M step, nats per datum; under a prior plus the
            log prior per datum.
        converged: Whether the bound last changed by less than the tolerance.
        n_reseeded: Empty components that were started anew; the bound may fall there.
        n_repaired: M steps in which a singular covariance got a jitter; the bound may fall there.
        n_floored: Steps on which the bound fell under a floor, `reg_covar > 0`, which is no part of the likelihood.
        segments: Where in `lower_bounds` a segment begins: at 0, and after each start of empty components. Without
            a floor and without a jitter, the bound never falls within one.
    """

    parameters: MixtureParameters
    lower_bounds: list[float]
    converged: bool
    n_reseeded: int = 0
    n_repaired: int = 0
    n_floored: int = 0
    segments: tuple[int, ...] = (0,)

    @property
    def lower_bound(self) -> float:
        """The last bound; minus infinity without an iteration."""
        return self.lower_bounds[-1] if self.lower_bounds else -float("inf")

    @property
    def n_iter(self) -> int:
        """Number of iterations."""
        return len(self.lower_bounds)


def fit_em(
    x: Tensor | Points,
    start: MixtureParameters,
    *,
    sample_weight: Tensor | None = None,
    noise_covariance: Tensor | None = None,
    noise_candidates: int | None = None,
    e_step: EStep | None = None,
    reg_covar: float = 1e-6,
    covariance_prior: Any = None,
    degrees_of_freedom_prior: float | None = None,
    tol: float = 1e-3,
    max_iter: int = 100,
    previous: float = -float("inf"),
    report: Callable[[int, float], None] | None = None,
) -> EMResult:
    """Fit a Gaussian mixture by EM (Dempster, Laird and Rubin, 1977).

    With `reg_covar = 0` the bound never falls, apart from where an empty component is started anew or a
    singular covariance gets a jitter, both of which warn. A `covariance_prior` makes covariances the mode of their
    posterior, and the bound that of the posterior: it keeps them positive definite, and never falls.

    Args:
        x: `n x D` points, or `Points` in memory, memory-mapped, in batches, or divided among processes.
        start: The mixture to start from.
        sample_weight: `(n,)` weights, not negative; `Points` hold their own.
        noise_covariance: Covariances of noise that was added to the points, as `expectation_under_noise` takes
            them; the mixture is then that of the points before it (Bovy, Hogg and Roweis, 2011), and the bounds
            are of the points as they are.
        noise_candidates: Most components of a noisy point, see `expectation_under_noise`.
        e_step: Another E step in the place of `expectation`: called `e_step(x, parameters, sample_weight=...)`. Of
            a tensor it gives the statistics of that tensor; of `Points`, those of all processes.
        reg_covar: Variance added to the diagonals in every M step.
        covariance_prior: Scale of an inverse Wishart prior (`D x D`: full, tied) or inverse gamma prior (`(D,)`:
            diag; a number: spherical) on the covariances, see `CovariancePrior`.
        degrees_of_freedom_prior: Its degrees of freedom; by default `D`.
        tol: EM ends when the bound changes by less, in nats per datum.
        max_iter: Most iterations.
        previous: The bound before the first iteration, where an earlier fit goes on.
        report: Called with the iteration and the change of the bound.

    Returns:
        The fitted mixture and the bounds on the way.

    Raises:
        ValueError: If the points are not as `as_points` takes them, their features are not those of the start, noise
            comes with `Points`, or the prior is not as described.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.em.em import fit_em
        >>> from latentmix.models.mixture.parameters import MixtureParameters
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> x = torch.tensor([[-1.0], [-1.2], [0.9], [1.1]])
        >>> means, spherical = torch.tensor([[-1.0], [1.0]]), covariance_structure("spherical")
        >>> start = MixtureParameters(torch.tensor([0.5, 0.5]), means, torch.ones(2), spherical)
        >>> fit_em(x, start).parameters.means.shape
        torch.Size([2, 1])
    """
    points = as_points(x, sample_weight)
    parameters = start.to(torch.empty(0, dtype=torch.float64, device=points.device))
    if parameters.means.shape[1] != points.n_features:
        raise ValueError(f"Expected points with {parameters.means.shape[1]} features; got {points.n_features}.")
    points.check_scale()
    structure = parameters.structure
    prior = CovariancePrior.of(covariance_prior, degrees_of_freedom_prior, structure, parameters.means[0])
    if noise_covariance is not None:
        if isinstance(x, Points):
            raise ValueError("Expected a tensor of points beside noise_covariance; got Points.")
        e_step = partial(expectation_under_noise, noise=noise_covariance, candidates=noise_candidates)
    correlated = structure.correlation_shape(*parameters.means.shape) is not None
    run = _E(points, x, sample_weight, e_step or expectation, prior)
    variance = points.variance if noise_covariance is None else parameters.variance
    bounds: list[float] = []
    segments = [0]
    reseeded = repaired = 0
    converged = remains = False
    for iteration in range(1, max_iter + 1):
        statistics, bound = run(parameters)
        before = parameters
        parameters, jittered = occupied(statistics).maximize(reg_covar, variance, prior)
        if correlated and run.exact and points.processes.agree(jittered or parameters.collinearity < _COLLINEAR):
            sharp = sharpened(points, before, parameters, reg_covar)
            parameters, jittered = (parameters, jittered) if sharp is None else (sharp, False)
        repaired += jittered
        empty = statistics.empty
        revive = bool(empty.any()) and iteration < max_iter and reseeded < _MAX_RESEEDS and points.count > len(empty)
        remains = bool(empty.any()) and not revive
        if revive:
            parameters = reseed(points, parameters, empty, noise_covariance)
            reseeded += int(empty.sum())
            segments.append(iteration)
        bounds.append(bound)
        change = bound - previous
        if report is not None:
            report(iteration, change)
        if abs(change) < tol and not revive:
            converged = True
            break
        previous = -float("inf") if revive else bound
    begins = tuple(first for first in segments if first < max(1, len(bounds)))
    floored = _falls(bounds, begins) if reg_covar > 0 else 0
    if remains:
        warn_of_empty(int(empty.sum()), again=False)
    return _warned(EMResult(parameters, bounds, converged, reseeded, repaired, floored, begins))


@dataclass(frozen=True)
class _E:
    """The E step over all points, with the bound under the prior."""

    points: Points
    given: Tensor | Points
    sample_weight: Tensor | None
    step: EStep
    prior: CovariancePrior | None

    @property
    def exact(self) -> bool:
        """Whether covariances are those of the points under their responsibilities, with nothing added."""
        return self.step is expectation and self.prior is None

    def __call__(self, parameters: MixtureParameters) -> tuple[SufficientStatistics, float]:
        if isinstance(self.given, Points) or self.step is expectation:
            statistics = self.step(self.points, parameters)
        else:
            weight = None if self.sample_weight is None else self.sample_weight.double()
            statistics = self.points.reduce(lambda: self.step(self.given, parameters, sample_weight=weight))
        if self.prior is None:
            return statistics, statistics.bound
        total = statistics.log_likelihood + self.prior.log_density(parameters)
        return statistics, float(total / statistics.weight)


def _falls(bounds: list[float], segments: tuple[int, ...]) -> int:
    """Steps on which the bound fell within a segment, by more than rounding."""
    steps = (i for i in range(1, len(bounds)) if i not in segments)
    return sum(bounds[i] < bounds[i - 1] - _ROUNDING * max(1.0, abs(bounds[i])) for i in steps)


def _warned(result: EMResult) -> EMResult:
    if result.n_reseeded:
        warn_of_empty(result.n_reseeded)
    if result.n_repaired:
        warn(
            f"Singular covariances got a jitter in {result.n_repaired} iterations: raise reg_covar, or use fewer "
            "components."
        )
    return result
