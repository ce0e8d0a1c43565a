"""Variational Bayes for Gaussian mixtures: coordinate ascent on the bound of the evidence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latentmix.inference.mixtures.em.conjugate import (
    ConjugatePrior,
    VariationalPosterior,
    digammas,
    lgammas,
    log_beta,
    log_det,
)
from latentmix.inference.mixtures.em.e_step import EStep, as_e_step
from latentmix.inference.mixtures.em.m_step import JITTERS, repair
from latentmix.inference.mixtures.em.statistics import SufficientStatistics
from latentmix.inference.mixtures.points.points import Points
from latentmix.inference.mixtures.progress import warn
from latentmix.models.display import Displayed
from latentmix.models.mixture.covariances import LOG_TWO_PI
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.words import plural

__all__ = ["DegenerateMixture", "VariationalResult", "entropy", "evidence_lower_bound", "fit_variational"]


class DegenerateMixture(ValueError):
    """A covariance lost to rounding, so that no bound can be computed from that start."""


@dataclass(frozen=True, repr=False)
class VariationalResult(Displayed):
    """Outcome of variational Bayes.

    Attributes:
        posterior: The fitted posterior.
        lower_bounds: The bound after each M step, in nats, without its constants.
        converged: Whether the bound last changed by less than the tolerance.
        evidence: The bound on the log of the evidence with every constant, in nats; NaN without an iteration.
        n_repaired: M steps, the start among them, in which a singular covariance got a jitter.
    """

    posterior: VariationalPosterior
    lower_bounds: list[float]
    converged: bool
    evidence: float
    n_repaired: int = 0

    @property
    def n_iter(self) -> int:
        """Number of iterations."""
        return len(self.lower_bounds)

    @property
    def lower_bound(self) -> float:
        """The last bound, minus infinity without an iteration."""
        return self.lower_bounds[-1] if self.lower_bounds else -math.inf


@torch.no_grad()
def fit_variational(
    points: Tensor | Points | EStep,
    start: VariationalPosterior,
    prior: ConjugatePrior,
    *,
    reg_covar: float = 0.0,
    tol: float = 1e-3,
    max_iter: int = 100,
    previous: float = -math.inf,
    report: Callable[[int, float], None] | None = None,
) -> VariationalResult:
    """Fit a mixture by coordinate ascent on the evidence bound (Bishop, 2006, section 10.2).

    Args:
        points: `n x D` points, or `Points` in memory, memory-mapped or in batches; or the E step of others, such as
            `IncompleteEStep`.
        start: The posterior to start from.
        prior: The prior.
        reg_covar: Variance added to the components' covariances in every M step.
        tol: The fit ends when the bound changes by less, in nats.
        max_iter: Most iterations.
        previous: The bound before the first iteration, where a fit resumes.
        report: Called with the iteration and the change of the bound.

    Returns:
        The fitted posterior and the bound of each iteration.

    Raises:
        DegenerateMixture: If covariances are singular because the spread of points is lost in double precision beside
            outlying ones, or the bound is not finite.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.em.conjugate import ConjugatePrior
        >>> from latentmix.inference.mixtures.em.statistics import SufficientStatistics
        >>> from latentmix.inference.mixtures.em.variational import fit_variational
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> from latentmix.models.mixture.parameters import MixtureParameters
        >>> x = torch.tensor([[-1.0], [-1.2], [0.9], [1.1]]).double()
        >>> diagonal, two = covariance_structure("diag"), torch.ones(2).double()
        >>> prior = ConjugatePrior("dirichlet_distribution", 1.0, x.mean(0), 0.1, 1.0, x.var(0), diagonal)
        >>> start = MixtureParameters(two / 2, x[[0, 2]], two[:, None], diagonal)
        >>> begin = prior.posterior(SufficientStatistics.of_parameters(start, 4.0))
        >>> fit_variational(x, begin, prior).posterior.means.shape
        torch.Size([2, 1])
    """
    e_step = as_e_step(points)
    points = e_step.points
    posterior, jittered = _repaired(start, points.variance)
    bounds, converged, repaired, evidence = list[float](), False, int(jittered), math.nan
    for iteration in range(1, max_iter + 1):
        statistics = e_step(posterior.effective)
        uncertainty = entropy(statistics, posterior.effective)
        posterior, jittered = _repaired(prior.posterior(statistics, reg_covar), points.variance)
        repaired += jittered
        if jittered:
            _check_spread(statistics, points)
        bounds.append(posterior.lower_bound(uncertainty))
        if not math.isfinite(bounds[-1]):
            raise DegenerateMixture(
                f"Expected a finite bound; got {bounds[-1]} in iteration {iteration}: the variances of features or "
                "components differ by more than double precision holds; standardise the features, or raise reg_covar."
            )
        change, previous = bounds[-1] - previous, bounds[-1]
        if report is not None:
            report(iteration, change)
        converged = abs(change) < tol
        if converged or iteration == max_iter:
            evidence = evidence_lower_bound(statistics, uncertainty, posterior, prior)
            break
    if repaired:
        warn(
            f"Singular covariances got a jitter in {plural(repaired, 'iteration')}: raise reg_covar, or give a "
            "covariance_prior that is positive definite."
        )
    return VariationalResult(posterior, bounds, converged, evidence, repaired)


def entropy(statistics: SufficientStatistics, parameters: MixtureParameters) -> Tensor:
    """Entropy of the responsibilities of an E step, in nats; with missing entries also of their densities.

    It is the log-likelihood less the expected log of weight times density, which the statistics determine.

    Args:
        statistics: The statistics of the E step.
        parameters: The mixture of the E step.
    """
    counts = statistics.counts
    log_weights = torch.where(counts > 0, parameters.weights.log(), torch.zeros_like(counts))
    return statistics.log_likelihood - counts @ log_weights - _expected_log_density(statistics, parameters)


def evidence_lower_bound(
    statistics: SufficientStatistics, uncertainty: Tensor, posterior: VariationalPosterior, prior: ConjugatePrior
) -> float:
    """The bound on the log-evidence with every constant, in nats, for any posterior (Bishop, section 10.2.2).

    The precisions' factors are Wishart distributions of the structure's own dimension with the posterior's
    expectations: full, one of `D` dimensions for each component; tied, one with the degrees of freedom of all;
    diag, one of 1 dimension for each variance; spherical, one for each component with `D` times the degrees of
    freedom. The last stick of a Dirichlet process takes the rest, so that bounds of other truncations compare. With
    one component and `reg_covar = 0` the bound is the log-evidence, under either prior of the weights.

    Args:
        statistics: Statistics of the E step.
        uncertainty: The `entropy` of its responsibilities.
        posterior: The posterior of any M step.
        prior: The prior.
    """
    structure, parameters, counts = prior.structure, posterior.parameters, statistics.counts
    n_components, n_features = posterior.means.shape
    own = prior.covariance.expand(structure.covariance_shape(n_components, n_features))
    guess = MixtureParameters(parameters.weights, parameters.means, own / prior.degrees_of_freedom, structure)
    dimension = n_features if structure.correlated else 1
    values = n_features if structure.isotropic else 1
    copies = n_features // (dimension * values)
    groups, times = (1, n_components) if structure.shared else (n_components, values)

    def wishart(of: MixtureParameters, nu: Tensor) -> tuple[Tensor, Tensor]:
        """Log-determinants of the scales, and log-normalisers less a constant, of the Wishart distributions."""
        log_scale = 2 * log_det(of)[:groups] / values - copies * dimension * nu.log()
        return log_scale, nu / 2 * (log_scale + copies * dimension * math.log(2)) + copies * lgammas(nu, dimension)

    nu = times * posterior.degrees_of_freedom[:groups]
    nu_0 = torch.full_like(nu, times * prior.degrees_of_freedom)
    (log_scale, norm), (_, norm_0) = wishart(parameters, nu), wishart(guess, nu_0)
    log_precision = log_scale + copies * (digammas(nu, dimension) + dimension * math.log(2))
    trace = _inner(parameters, structure.pool(torch.ones_like(counts), own))
    precisions = (norm_0 - norm + (nu - nu_0) / 2 * log_precision - copies * dimension * nu / 2).sum() + trace / 2

    beta, beta_0 = posterior.mean_precision, prior.mean_precision
    offset = structure.scatter(torch.full_like(beta, beta_0)[None], (posterior.means - prior.mean)[None])
    means = (n_features * ((beta / beta_0).log() + beta_0 / beta - 1).sum() + _inner(parameters, offset)) / 2

    a, log_weights = posterior.weight_concentration, posterior.expected_log_weights
    a_0 = torch.full_like(a, prior.weight_concentration)
    if prior.weight_prior == "dirichlet_process":
        a_0[0] = 1
        taken = a[:1, -1].digamma() - a[:, -1].sum().digamma()
        log_weights = torch.cat([log_weights[:-1], log_weights[-1:] - taken])
        a, a_0 = a[:, :-1], a_0[:, :-1]
    weights = log_beta(a_0) - log_beta(a) + ((a - a_0) * (a.digamma() - a.sum(0).digamma())).sum()

    beyond = values * log_precision / 2 - log_det(parameters) - n_features / (2 * beta)
    data = counts @ (log_weights + beyond) + _expected_log_density(statistics, parameters)
    return float(uncertainty + data - weights - means - precisions)


def _expected_log_density(statistics: SufficientStatistics, parameters: MixtureParameters) -> Tensor:
    """Log-densities of the data under their components, summed under the responsibilities."""
    structure, n_features = parameters.structure, parameters.means.shape[1]
    counts = statistics.counts.clamp_min(torch.finfo(statistics.counts.dtype).tiny)
    shift = statistics.sums / counts[:, None]
    within = structure.pool(counts, structure.estimate(counts, statistics.scatter, shift))
    between = structure.scatter(counts[None], (statistics.centres + shift - parameters.means)[None])
    squares = _inner(parameters, within + between)
    return statistics.counts @ (log_det(parameters) - n_features / 2 * LOG_TWO_PI) - squares / 2


def _inner(parameters: MixtureParameters, scatter: Tensor) -> Tensor:
    """Trace of the precisions times second moments, summed over the components."""
    structure = parameters.structure
    precisions = structure.precisions(parameters.precisions_cholesky)
    if structure.isotropic:
        return (precisions * scatter.mean(-1)).sum() * parameters.means.shape[1]
    return (precisions * scatter).sum()


def _check_spread(statistics: SufficientStatistics, points: Points) -> None:
    """Refuse a jitter, relative to the variances of the points, that exceeds a component's own spread."""
    structure, counts = statistics.structure, statistics.counts.clamp_min(torch.finfo(torch.float64).tiny)
    within = structure.estimate(counts, statistics.scatter, statistics.sums / counts[:, None])
    expanded = structure.expand(within, *statistics.sums.shape).diagonal(dim1=-2, dim2=-1)
    constant = expanded <= 1e-24 * points.location.square()
    lost = ((expanded < JITTERS[0] * points.variance) & ~constant & (counts > 1)[:, None]).any(0)
    if bool(lost.any()):
        raise DegenerateMixture(
            "Expected points whose covariances are positive definite in double precision; got singular ones, and in "
            f"features {', '.join(map(str, lost.nonzero().flatten().tolist()))} components whose variance is below "
            f"{JITTERS[0]:g} of that of all points: a point or a component lies so far out that the spread of others "
            "is lost; drop such points, or fit the parts alone."
        )


def _repaired(posterior: VariationalPosterior, variance: Tensor) -> tuple[VariationalPosterior, bool]:
    parameters, jittered = repair(posterior.parameters, variance)
    return replace(posterior, covariances=parameters.covariances, factors=None) if jittered else posterior, jittered
