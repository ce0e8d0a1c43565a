"""Expectation maximisation for Gaussian mixtures, of points that are exact or have noise of their own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from latentmix.inference.mixtures.deconvolution import expectation_under_noise, log_joint_under_noise
from latentmix.inference.mixtures.statistics import SufficientStatistics, expectation, moments, repair, slices
from latentmix.models.parameters import MixtureParameters

__all__ = ["EMResult", "SufficientStatistics", "expectation", "fit_em", "moments", "repair", "reseed", "slices"]

_MAX_RESEEDS = 10

EStep = Callable[..., SufficientStatistics]


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


def reseed(
    x: Tensor, parameters: MixtureParameters, empty: Tensor, variance: Tensor, noise: Tensor | None = None
) -> MixtureParameters:
    """Start empty components anew, each at the worst explained point, as wide as the data.

    Args:
        x: `n x D` points.
        parameters: The mixture.
        empty: `(K,)` booleans.
        variance: `(D,)` variances of the data.
        noise: Covariances of the noise of the points, as `expectation_under_noise` takes them.
    """
    alive = MixtureParameters(
        parameters.weights.where(~empty, 0.0), parameters.means, parameters.covariances, parameters.structure
    )
    if noise is None:
        density = torch.cat([alive.log_likelihood(x[rows].double()) for rows in slices(x, len(empty))])
    else:
        density = log_joint_under_noise(x, alive, noise).logsumexp(1)
    worst = density.argsort()[: int(empty.sum())]
    means = parameters.means.clone()
    means[empty] = x[worst].double() if noise is None else _shrunk(x[worst], noise, worst, alive)
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
    noise_covariance: Tensor | None = None,
    noise_candidates: int | None = None,
    e_step: EStep | None = None,
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
        noise_covariance: Covariances of noise that was added to the points, as `expectation_under_noise` takes
            them; the mixture is then that of the points before it (Bovy, Hogg and Roweis, 2011), and the bounds
            are of the points as they are.
        noise_candidates: Most components of a noisy point, see `expectation_under_noise`.
        e_step: Another E step in the place of `expectation`: called `e_step(x, parameters, sample_weight=...)`.
        reg_covar: Variance added to the diagonals in every M step.
        tol: EM ends when the bound changes by less, in nats per datum.
        max_iter: Most iterations.
        previous: The bound before the first iteration, where an earlier fit goes on.
        report: Called with the iteration and the change of the bound.

    Returns:
        The fitted mixture and the bounds on the way.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.em import fit_em
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
    variance = moments(x, weight)[1] if noise_covariance is None else _spread(parameters)
    if e_step is None and noise_covariance is not None:
        e_step = partial(expectation_under_noise, noise=noise_covariance, candidates=noise_candidates)
    elif e_step is None:
        e_step = expectation
    bounds: list[float] = []
    reseeded = repaired = 0
    for iteration in range(1, max_iter + 1):
        statistics = e_step(x, parameters, sample_weight=weight)
        parameters, jittered = statistics.maximize(reg_covar, variance)
        repaired += jittered
        empty = statistics.empty
        revive = bool(empty.any()) and reseeded < _MAX_RESEEDS and len(x) > len(empty)
        if revive:
            parameters = reseed(x, parameters, empty, variance, noise_covariance)
            reseeded += int(empty.sum())
        bounds.append(statistics.bound)
        change = bounds[-1] - previous
        if report is not None:
            report(iteration, change)
        if abs(change) < tol and not revive:
            return _warned(EMResult(parameters, bounds, True, reseeded, repaired))
        previous = -float("inf") if revive else bounds[-1]
    return _warned(EMResult(parameters, bounds, False, reseeded, repaired))


def _shrunk(x: Tensor, noise: Tensor, rows: Tensor, parameters: MixtureParameters) -> Tensor:
    """Where noisy points lie without their noise, under an uncorrelated Gaussian of the moments of a mixture."""
    own = noise.double() if len(noise) == 1 else noise[rows].double()
    own = own if own.ndim == 2 else own.diagonal(dim1=-2, dim2=-1)
    mean, variance = parameters.weights @ parameters.means, _spread(parameters)
    return mean + variance / (variance + own) * (x.double() - mean)


def _spread(parameters: MixtureParameters) -> Tensor:
    """Variance of each feature under a mixture: `(D,)`, without the noise that the variance of noisy points holds."""
    deviations = parameters.means - parameters.weights @ parameters.means
    within = parameters.expanded_covariances().diagonal(dim1=-2, dim2=-1)
    return parameters.weights @ (within + deviations.square())


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
