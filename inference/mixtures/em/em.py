"""Expectation maximisation for Gaussian mixtures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentmix.inference.mixtures.em.covariance_priors import CovariancePrior
from latentmix.inference.mixtures.em.e_step import EStep, as_e_step
from latentmix.inference.mixtures.em.empty import reset_empty, warn_of_empty
from latentmix.inference.mixtures.em.m_step import keep_empty, maximize, sharpen
from latentmix.inference.mixtures.em.statistics import SufficientStatistics
from latentmix.inference.mixtures.points.points import Points
from latentmix.inference.mixtures.progress import warn
from latentmix.models.display import Displayed
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.words import plural

__all__ = ["EMResult", "fit_em"]

_MAX_RESETS = 10
# A fall of the bound that rounding alone accounts for, relative to its size.
_ROUNDING = 1e-12


@dataclass(frozen=True, repr=False)
class EMResult(Displayed):
    """Outcome of EM.

    Attributes:
        parameters: The fitted mixture, in float64.
        lower_bounds: Mean log-likelihood of the data before each M step, nats per datum; under a prior plus the
            log prior per datum.
        converged: Whether the bound last changed by less than the tolerance.
        n_reseeded: Empty components that were reset; the bound may fall there.
        n_repaired: M steps in which a singular covariance got a jitter; the bound may fall there.
        n_floored: Steps on which the bound fell because `reg_covar > 0` was added to the covariances.
        segments: Places in `lower_bounds` where a segment begins: 0, and after each reset of empty components.
            Without a floor and without a jitter, the bound never falls within one.
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

    @property
    def posterior(self) -> None:
        """None: EM gives a point estimate."""
        return


@torch.no_grad()
def fit_em(
    x: Tensor | Points | EStep,
    start: MixtureParameters,
    *,
    reg_covar: float = 1e-6,
    covariance_prior: Any = None,
    degrees_of_freedom_prior: float | None = None,
    tol: float = 1e-3,
    max_iter: int = 100,
    previous: float = -float("inf"),
    report: Callable[[int, float], None] | None = None,
) -> EMResult:
    """Fit a Gaussian mixture by EM (Dempster, Laird and Rubin, 1977).

    With `reg_covar = 0` the bound never falls, apart from where an empty component is reset or a singular covariance
    gets a jitter, both of which warn. A `covariance_prior` makes covariances the mode of their posterior, and the
    bound that of the posterior: it keeps them positive definite, and never falls.

    Args:
        x: `n x D` points, or `Points` in memory, memory-mapped, in batches, or divided among processes, with weights
            or without; or the E step of other points: `IncompleteEStep`, or `NoisyEStep`, of which the mixture is
            that before the noise (Bovy, Hogg and Roweis, 2011), and the bounds are of the points as they are.
        start: The mixture to start from.
        reg_covar: Variance added to the diagonals in every M step.
        covariance_prior: Scale of an inverse Wishart prior (`D x D`: full, tied) or inverse gamma prior (`(D,)`:
            diag; a number: spherical) on the covariances, see `CovariancePrior`.
        degrees_of_freedom_prior: Its degrees of freedom; by default `D`.
        tol: EM ends when the bound changes by less, in nats per datum.
        max_iter: Most iterations.
        previous: The bound before the first iteration, where an earlier fit is resumed.
        report: Called with the iteration and the change of the bound.

    Returns:
        The fitted mixture and the bounds on the way.

    Raises:
        ValueError: If the points are not as `as_points` takes them, their features are not those of the start, their
            log-likelihood is not finite, or the prior is not as described.

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
    e_step = as_e_step(x)
    parameters = _checked(start, e_step.points)
    prior = CovariancePrior.of(covariance_prior, degrees_of_freedom_prior, parameters.structure, parameters.means[0])
    variance = e_step.variance(parameters)
    bounds: list[float] = []
    segments = [0]
    reset = repaired = 0
    converged = remains = False
    for iteration in range(1, max_iter + 1):
        statistics, before = e_step(parameters), parameters
        bounds.append(_bound(statistics, parameters, prior))
        parameters, jittered = maximize(keep_empty(statistics), reg_covar, variance, prior)
        if e_step.exact and prior is None:
            parameters, jittered = sharpen(e_step.points, before, parameters, jittered, reg_covar)
        repaired += jittered

        resets = statistics.any_empty and iteration < max_iter and reset < _MAX_RESETS
        resets = resets and e_step.points.count > len(statistics.counts)
        remains = statistics.any_empty and not resets
        if resets:
            parameters = reset_empty(e_step, parameters, statistics.empty)
            reset += int(statistics.empty.sum())
            segments.append(iteration)

        change = bounds[-1] - previous
        if report is not None:
            report(iteration, change)
        converged = abs(change) < tol and not resets
        if converged:
            break
        previous = -float("inf") if resets else bounds[-1]
    if remains:
        warn_of_empty(int(statistics.empty.sum()), reset=False)
    begins = tuple(first for first in segments if first < max(1, len(bounds)))
    floored = _falls(bounds, begins) if reg_covar > 0 else 0
    return _warned(EMResult(parameters, bounds, converged, reset, repaired, floored, begins))


def _checked(start: MixtureParameters, points: Points) -> MixtureParameters:
    """The start in float64 on the device of the points, if they fit each other."""
    if start.means.shape[1] != points.n_features:
        raise ValueError(f"Expected points with {plural(start.means.shape[1], 'feature')}; got {points.n_features}.")
    points.check_scale()
    return start.to(torch.empty(0, dtype=torch.float64, device=points.device))


def _bound(statistics: SufficientStatistics, parameters: MixtureParameters, prior: CovariancePrior | None) -> float:
    """Mean log-likelihood under the parameters of the E step, with the log prior per datum."""
    if prior is None:
        return statistics.bound
    return statistics.bound + float(prior.log_density(parameters) / statistics.weight)


def _falls(bounds: list[float], segments: tuple[int, ...]) -> int:
    """Steps on which the bound fell within a segment, by more than rounding."""
    steps = (i for i in range(1, len(bounds)) if i not in segments)
    return sum(bounds[i] < bounds[i - 1] - _ROUNDING * max(1.0, abs(bounds[i])) for i in steps)


def _warned(result: EMResult) -> EMResult:
    if result.n_reseeded:
        warn_of_empty(result.n_reseeded)
    if result.n_repaired:
        warn(
            f"Singular covariances got a jitter in {plural(result.n_repaired, 'iteration')}: raise reg_covar, or "
            "use fewer components."
        )
    return result
