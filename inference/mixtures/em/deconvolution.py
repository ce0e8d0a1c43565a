r"""Extreme deconvolution: the E step of a Gaussian mixture whose points carry Gaussian noise of known covariance.

Points :math:`m_i = z_i + \epsilon_i` with :math:`z_i \sim \sum_k \pi_k \mathcal N(\mu_k, \Sigma_k)` and
:math:`\epsilon_i \sim \mathcal N(0, S_i)`. With :math:`T_{ik} = \Sigma_k + S_i` and
:math:`a_{ik} = T_{ik}^{-1} (m_i - \mu_k)` the responsibilities are those of
:math:`\pi_k \mathcal N(m_i \mid \mu_k, T_{ik})`, and z has under component k the mean
:math:`\mu_k + \Sigma_k a_{ik}` and the covariance :math:`\Sigma_k - \Sigma_k T_{ik}^{-1} \Sigma_k` (Bovy, Hogg and
Roweis, *Extreme deconvolution*, 2011, https://doi.org/10.1214/10-AOAS439, equations 16 and 17).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from latentmix.inference.mixtures.em.statistics import SufficientStatistics, expectation, slices, stored
from latentmix.models.mixture.covariances import CovarianceStructure, CovarianceType, covariance_structure
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["expectation_under_noise", "log_joint_under_noise", "shrunk"]

# A smaller responsibility is left out of the moments; the log-likelihood holds it.
_NEGLIGIBLE = 1e-12
_LOG_TWO_PI = 1.8378770664093453


def expectation_under_noise(
    x: Tensor,
    parameters: MixtureParameters,
    noise: Tensor,
    sample_weight: Tensor | None = None,
    *,
    candidates: int | None = None,
) -> SufficientStatistics:
    """The E step for noisy points: statistics of the points without their noise, about the parameters' means.

    The M step `SufficientStatistics.maximize` applies as it stands. Variances under a structure of variances cost
    `n K D`; noise that is shared costs what exact points cost; otherwise a `D x D` matrix is factorised for every
    point and component (for every point alone where covariances are tied), a few megabytes of them at a time.
    `candidates` shortens that: each point is a member of its nearest components alone. The log-likelihood is then a
    lower bound of the exact one, tight where the others' responsibilities are small (Lücke and Forster, *k-means
    as a variational EM approximation of Gaussian mixture models*, 2019, on such truncated posteriors).

    Args:
        x: `n x D` points in any floating dtype.
        parameters: The mixture, in float64.
        noise: Variances, `n x D`, or covariances, `n x D x D`, of the noise; `1 x D` or `1 x D x D` where all
            points share it.
        sample_weight: `(n,)` weights in float64.
        candidates: Most components of a point, where a matrix is factorised for every point and component; by
            default all.

    Returns:
        Statistics in float64; the log-likelihood is that of the noisy points.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.em.deconvolution import expectation_under_noise
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> from latentmix.models.mixture.parameters import MixtureParameters
        >>> zeros, ones = torch.zeros(1, 2).double(), torch.ones(1, 2).double()
        >>> mixture = MixtureParameters(torch.ones(1).double(), zeros, ones, covariance_structure("diag"))
        >>> expectation_under_noise(torch.ones(5, 2), mixture, torch.ones(5, 2)).sums
        tensor([[2.5000, 2.5000]], dtype=torch.float64)
    """
    if len(noise) == 1:
        return _expectation_under_shared_noise(x, parameters, noise, sample_weight)
    elementwise = _elementwise(parameters.structure, noise)
    total = None
    for rows in _chunks(x, parameters, noise):
        weight = None if sample_weight is None else sample_weight[rows]
        points, own = x[rows].double(), noise[rows].double()
        if elementwise:
            added = _diagonal(points, parameters, own, weight)
        else:
            added = _correlated(points, parameters, own, weight, _near(points, parameters, own, candidates))
        total = added if total is None else total + added
    assert total is not None
    return total


def log_joint_under_noise(x: Tensor, parameters: MixtureParameters, noise: Tensor) -> Tensor:
    """Log of weight times density of noisy points under each component, `n x K` in float64.

    Args:
        x: `n x D` points.
        parameters: The mixture, in float64.
        noise: As `expectation_under_noise` takes it.
    """
    if len(noise) == 1:
        inflated = _inflated(parameters, noise.double())
        return torch.cat([inflated.log_joint(x[rows].double()) for rows in slices(x, len(parameters.weights))])
    part = _diagonal_log_joint if _elementwise(parameters.structure, noise) else _correlated_log_joint
    chunks = _chunks(x, parameters, noise)
    return torch.cat([part(x[rows].double(), parameters, noise[rows].double()) for rows in chunks])


def shrunk(x: Tensor, parameters: MixtureParameters, noise: Tensor) -> Tensor:
    """Where noisy points lie without their noise, under one Gaussian, without correlations, of a mixture's moments.

    Args:
        x: `n x D` points.
        parameters: The mixture.
        noise: `n x D`, or `n x D x D`, or one row of these for all.
    """
    own = noise.double() if noise.ndim == 2 else noise.double().diagonal(dim1=-2, dim2=-1)
    mean, variance = parameters.mean, parameters.variance
    return mean + variance / (variance + own) * (x.double() - mean)


def _near(x: Tensor, parameters: MixtureParameters, noise: Tensor, candidates: int | None) -> Tensor | None:
    """Which components are the nearest of each point, `n x K` booleans; `None` where all are."""
    if candidates is None or candidates >= len(parameters.weights) or parameters.structure.name == "tied":
        return None
    scores = parameters.log_joint(shrunk(x, parameters, noise))
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, scores.topk(candidates).indices, True)


def _elementwise(structure: CovarianceStructure, noise: Tensor) -> bool:
    return noise.ndim == 2 and structure.name in ("diag", "spherical")


def _chunks(x: Tensor, parameters: MixtureParameters, noise: Tensor) -> Iterator[slice]:
    n_components, n_features = parameters.means.shape
    elementwise = _elementwise(parameters.structure, noise)
    return slices(x, n_components if elementwise else max(n_components, n_features))


def _variances(parameters: MixtureParameters) -> Tensor:
    columns = parameters.covariances if parameters.covariances.ndim == 2 else parameters.covariances[:, None]
    return columns.expand_as(parameters.means)


def _diagonal_log_joint(x: Tensor, parameters: MixtureParameters, noise: Tensor) -> Tensor:
    total = _variances(parameters) + noise[:, None]
    squares = ((x[:, None] - parameters.means).square() / total + total.log()).sum(-1)
    return parameters.weights.log() - 0.5 * (squares + x.shape[1] * _LOG_TWO_PI)


def _diagonal(
    x: Tensor, parameters: MixtureParameters, noise: Tensor, sample_weight: Tensor | None
) -> SufficientStatistics:
    variances = _variances(parameters)
    gain = variances / (variances + noise[:, None])
    shift = gain * (x[:, None] - parameters.means)
    shares, density = _shares(_diagonal_log_joint(x, parameters, noise), sample_weight)
    scatter = torch.einsum("nk,nkd->kd", shares, shift.square() + gain * noise[:, None])
    sums = torch.einsum("nk,nkd->kd", shares, shift)
    return _statistics(parameters, shares, density, sums, scatter, sample_weight)


def _correlated_log_joint(
    x: Tensor, parameters: MixtureParameters, noise: Tensor, near: Tensor | None = None
) -> Tensor:
    joint = x.new_full((len(x), len(parameters.weights)), -torch.inf)
    for covariance, members in _groups(parameters):
        rows = slice(None) if near is None else near[:, members].any(1)
        factor = _factor(covariance, noise[rows])
        deviations = x[rows][:, :, None] - parameters.means[members].T
        squares = torch.linalg.solve_triangular(factor, deviations, upper=False).square().sum(1)
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)
        density = -0.5 * (squares + x.shape[1] * _LOG_TWO_PI) - log_det
        joint[rows, members] = parameters.weights[members].log() + density
    return joint


def _correlated(
    x: Tensor, parameters: MixtureParameters, noise: Tensor, sample_weight: Tensor | None, near: Tensor | None
) -> SufficientStatistics:
    shares, density = _shares(_correlated_log_joint(x, parameters, noise, near), sample_weight)
    negligible = _NEGLIGIBLE if sample_weight is None else _NEGLIGIBLE * sample_weight
    sums = torch.zeros_like(parameters.means)
    scatter = []
    for covariance, members in _groups(parameters):
        rows = shares[:, members].amax(1) > negligible
        own = shares[rows, members]
        factor = _factor(covariance, noise[rows])
        pulls = torch.cholesky_solve(x[rows][:, :, None] - parameters.means[members].T, factor)
        sums[members] = torch.einsum("nk,ndk->kd", own, pulls) @ covariance
        flat = pulls.mT.flatten(0, 1)
        between = covariance @ ((flat * own.reshape(-1, 1)).T @ flat) @ covariance.mT
        precisions, spread = torch.cholesky_inverse(factor), noise[rows]  # of products alone: nothing cancels
        remaining = precisions * spread[:, None] if spread.ndim == 2 else precisions @ spread
        within = covariance @ (own.sum(1) @ remaining.flatten(1)).view_as(covariance)
        scatter.append((between + between.mT + within + within.mT) / 2)
    moments = stored(parameters.structure, torch.stack(scatter))
    return _statistics(parameters, shares, density, sums, moments, sample_weight)


def _groups(parameters: MixtureParameters) -> Iterator[tuple[Tensor, slice]]:
    """Each `D x D` covariance, with the components that have it."""
    if parameters.structure.name == "tied":
        yield parameters.covariances, slice(None)
        return
    for k, covariance in enumerate(parameters.expanded_covariances()):
        yield covariance, slice(k, k + 1)


def _factor(covariance: Tensor, noise: Tensor) -> Tensor:
    """Lower Cholesky factors of the covariance plus each noise: `n x D x D`."""
    total = covariance + noise if noise.ndim == 3 else covariance.expand(len(noise), *covariance.shape).clone()
    diagonal = total.diagonal(dim1=-2, dim2=-1)
    if noise.ndim == 2:
        diagonal += noise
    factor, info = torch.linalg.cholesky_ex(total)
    for jitter in (1e-10, 1e-8, 1e-6):
        if not bool(info.any()):
            break
        diagonal *= 1 + jitter
        factor, info = torch.linalg.cholesky_ex(total)
    return factor


def _expectation_under_shared_noise(
    x: Tensor, parameters: MixtureParameters, noise: Tensor, sample_weight: Tensor | None
) -> SufficientStatistics:
    """The exact E step under covariances that hold the noise, its moments moved by each component's gain."""
    noise = noise.double()
    structure, inflated = parameters.structure, _inflated(parameters, noise)
    found = expectation(x, inflated, sample_weight).about(parameters.means)
    if inflated.structure.name == "diag":
        gain = _variances(parameters) / inflated.covariances
        sums = gain * found.sums
        scatter = gain.square() * found.scatter + found.counts[:, None] * gain * noise
    else:
        distinct = slice(1) if structure.name == "tied" else slice(None)
        precisions = inflated.structure.precisions(inflated.precisions_cholesky)
        gains = parameters.expanded_covariances()[distinct] @ precisions
        counts = found.counts.sum(0, keepdim=True) if structure.name == "tied" else found.counts
        within = gains @ (noise[0] if noise.ndim == 3 else noise[0].diag())
        sums = (gains @ found.sums[..., None]).squeeze(-1)
        scatter = stored(structure, gains @ found.scatter @ gains.mT + counts[:, None, None] * within)
    return SufficientStatistics(
        found.counts, sums, scatter, found.centres, found.log_likelihood, found.weight, structure
    )


def _inflated(parameters: MixtureParameters, noise: Tensor) -> MixtureParameters:
    """The mixture of the noisy points, where they share the noise."""
    structure, covariances = parameters.structure, parameters.covariances
    if _elementwise(structure, noise):
        return _with(parameters, _variances(parameters) + noise, "diag")
    if structure.name == "tied":
        return _with(parameters, covariances + (noise[0] if noise.ndim == 3 else noise[0].diag()), "tied")
    matrix = noise if noise.ndim == 3 else torch.diag_embed(noise)
    return _with(parameters, parameters.expanded_covariances() + matrix, "full")


def _with(parameters: MixtureParameters, covariances: Tensor, name: CovarianceType) -> MixtureParameters:
    return MixtureParameters(parameters.weights, parameters.means, covariances, covariance_structure(name))


def _shares(joint: Tensor, sample_weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Responsibilities times the weights, and log-densities times the weights."""
    density = joint.logsumexp(1)
    shares = (joint - density[:, None]).exp()
    if sample_weight is None:
        return shares, density
    return shares * sample_weight[:, None], density * sample_weight


def _statistics(
    parameters: MixtureParameters,
    shares: Tensor,
    density: Tensor,
    sums: Tensor,
    scatter: Tensor,
    sample_weight: Tensor | None,
) -> SufficientStatistics:
    weight = density.new_tensor(float(len(density))) if sample_weight is None else sample_weight.sum()
    return SufficientStatistics(
        shares.sum(0), sums, scatter, parameters.means, density.sum(), weight, parameters.structure
    )
