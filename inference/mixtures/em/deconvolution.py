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
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from latentmix.inference.mixtures.em.e_step import EStep, ExactEStep
from latentmix.inference.mixtures.em.statistics import SufficientStatistics
from latentmix.inference.mixtures.points.points import Points
from latentmix.models.mixture.covariances import LOG_TWO_PI, CovarianceStructure, covariance_structure
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["NoisyEStep", "denoise", "log_joint_under_noise"]

_CHUNK = 4_000_000  # doubles of one block
# Smaller responsibilities are left out of the moments, though not of the log-likelihood.
_NEGLIGIBLE = 1e-12


@final
class NoisyEStep(EStep):
    """The E step of noisy points: statistics of the points without their noise, about the parameters' means.

    Variances under a structure of variances cost `n K D`; noise that is shared costs what exact points cost; otherwise
    a `D x D` matrix is factorised for every point and component (for every point alone where covariances are shared), a
    few megabytes of them at a time. `candidates` shortens that: each point is a member of its nearest components alone.
    The log-likelihood, of the noisy points, is then a lower bound of the exact one, tight where the others'
    responsibilities are small (Lücke and Forster, *k-means as a variational EM approximation of Gaussian mixture
    models*, 2019, on such truncated posteriors).

    Args:
        points: `n x D` points in any floating dtype, all of one process.
        noise: Variances, `n x D`, or covariances, `n x D x D`, of the noise; `1 x D` or `1 x D x D` where all
            points share it.
        candidates: Most components of a point, where a matrix is factorised for every point and component; by
            default all.

    Raises:
        ValueError: If there is noise of another number of points.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.em.deconvolution import NoisyEStep
        >>> from latentmix.inference.mixtures.points.points import as_points
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> from latentmix.models.mixture.parameters import MixtureParameters
        >>> zeros, ones = torch.zeros(1, 2).double(), torch.ones(1, 2).double()
        >>> mixture = MixtureParameters(torch.ones(1).double(), zeros, ones, covariance_structure("diag"))
        >>> NoisyEStep(as_points(torch.ones(5, 2)), torch.ones(5, 2))(mixture).sums
        tensor([[2.5000, 2.5000]], dtype=torch.float64)
    """

    def __init__(self, points: Points, noise: Tensor, *, candidates: int | None = None) -> None:
        super().__init__(points)
        if len(noise) not in (1, points.local_count):
            raise ValueError(f"Expected noise of one point or of all {points.local_count}; got that of {len(noise)}.")
        self.noise, self.candidates = noise, candidates
        self._exact = ExactEStep(points)

    def __call__(self, parameters: MixtureParameters) -> SufficientStatistics:
        if len(self.noise) == 1:
            noise = self.noise.double()
            inflated = _inflated(parameters, noise)
            return _denoised(self._exact(inflated), parameters, inflated, noise)
        return self.points.reduce(lambda: self._local(parameters))

    def variance(self, start: MixtureParameters) -> Tensor:
        """Variances of the features under the start: those of the points hold the noise."""
        return start.variance

    def scored(self, parameters: MixtureParameters) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Log joints of chunks of the noisy points, the points with their noise shrunk, and their weights."""
        rows = max(1, _CHUNK // 4 // parameters.means.numel())
        for x, noise, weight in self._chunks(rows):
            yield log_joint_under_noise(x, parameters, noise), denoise(x, parameters, noise), weight

    def _chunks(self, rows: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Points, their noise and their weights, in float64."""
        first = 0
        for x, weight in self.points.chunks(rows):
            own = self.noise if len(self.noise) == 1 else self.noise[first : first + len(x)]
            yield x.double(), own.double(), weight
            first += len(x)

    def _local(self, parameters: MixtureParameters) -> SufficientStatistics:
        elementwise = _elementwise(parameters.structure, self.noise)
        total = None
        for x, noise, weight in self._chunks(_rows(parameters, elementwise)):
            if elementwise:
                added = _diagonal(x, parameters, noise, weight)
            else:
                added = _correlated(x, parameters, noise, weight, _near(x, parameters, noise, self.candidates))
            total = added if total is None else total + added
        assert total is not None
        return total


def log_joint_under_noise(x: Tensor, parameters: MixtureParameters, noise: Tensor) -> Tensor:
    """Log of weight times density of noisy points under each component, `n x K` in float64.

    Args:
        x: `n x D` points.
        parameters: The mixture, in float64.
        noise: As `NoisyEStep` takes it.
    """
    if len(noise) == 1:
        inflated = _inflated(parameters, noise.double())
        return torch.cat([inflated.log_joint(part.double()) for part in x.split(_rows(parameters, True))])
    elementwise = _elementwise(parameters.structure, noise)
    rows = _rows(parameters, elementwise)
    evaluate = _diagonal_log_joint if elementwise else _correlated_log_joint
    parts = zip(x.split(rows), noise.split(rows), strict=True)
    return torch.cat([evaluate(part.double(), parameters, own.double()) for part, own in parts])


def denoise(x: Tensor, parameters: MixtureParameters, noise: Tensor) -> Tensor:
    """Expectations of noisy points without their noise, under one Gaussian of a mixture's means and variances.

    Args:
        x: `n x D` points.
        parameters: The mixture.
        noise: `n x D`, or `n x D x D`, or one row of these for all.
    """
    own = noise.double() if noise.ndim == 2 else noise.double().diagonal(dim1=-2, dim2=-1)
    mean, variance = parameters.mean, parameters.variance
    return mean + variance / (variance + own) * (x.double() - mean)


def _near(x: Tensor, parameters: MixtureParameters, noise: Tensor, candidates: int | None) -> Tensor | None:
    """Whether each component is a candidate of each point, `n x K` booleans; `None` where all are."""
    if candidates is None or candidates >= len(parameters.weights) or parameters.structure.shared:
        return None
    scores = parameters.log_joint(denoise(x, parameters, noise))
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, scores.topk(candidates).indices, True)


def _elementwise(structure: CovarianceStructure, noise: Tensor) -> bool:
    """Whether covariances and noise are variances."""
    return noise.ndim == 2 and not structure.correlated


def _rows(parameters: MixtureParameters, elementwise: bool) -> int:
    """Rows of a chunk of 32 MB at most."""
    n_components, n_features = parameters.means.shape
    return max(1, _CHUNK // (n_features * (n_components if elementwise else max(n_components, n_features))))


def _variances(parameters: MixtureParameters) -> Tensor:
    return parameters.structure.by_component(parameters.covariances).expand_as(parameters.means)


def _diagonal_log_joint(x: Tensor, parameters: MixtureParameters, noise: Tensor) -> Tensor:
    total = _variances(parameters) + noise[:, None]
    squares = ((x[:, None] - parameters.means).square() / total + total.log()).sum(-1)
    return parameters.weights.log() - 0.5 * (squares + x.shape[1] * LOG_TWO_PI)


def _diagonal(
    x: Tensor, parameters: MixtureParameters, noise: Tensor, sample_weight: Tensor | None
) -> SufficientStatistics:
    variances = _variances(parameters)
    gain = variances / (variances + noise[:, None])
    shift = gain * (x[:, None] - parameters.means)
    responsibilities, density = _weighted(_diagonal_log_joint(x, parameters, noise), sample_weight)
    moments = torch.einsum("nk,nkd->kd", responsibilities, shift.square() + gain * noise[:, None])
    sums = torch.einsum("nk,nkd->kd", responsibilities, shift)
    return _statistics(parameters, responsibilities, density, sums, moments, sample_weight)


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
        density = -0.5 * (squares + x.shape[1] * LOG_TWO_PI) - log_det
        joint[rows, members] = parameters.weights[members].log() + density
    return joint


def _correlated(
    x: Tensor, parameters: MixtureParameters, noise: Tensor, sample_weight: Tensor | None, near: Tensor | None
) -> SufficientStatistics:
    responsibilities, density = _weighted(_correlated_log_joint(x, parameters, noise, near), sample_weight)
    negligible = _NEGLIGIBLE if sample_weight is None else _NEGLIGIBLE * sample_weight
    sums = torch.zeros_like(parameters.means)
    moments = []
    for covariance, members in _groups(parameters):
        rows = responsibilities[:, members].amax(1) > negligible
        own = responsibilities[rows, members]
        factor = _factor(covariance, noise[rows])
        pulls = torch.cholesky_solve(x[rows][:, :, None] - parameters.means[members].T, factor)
        sums[members] = torch.einsum("nk,ndk->kd", own, pulls) @ covariance
        flat = pulls.mT.flatten(0, 1)
        between = covariance @ ((flat * own.reshape(-1, 1)).T @ flat) @ covariance.mT
        precisions, spread = torch.cholesky_inverse(factor), noise[rows]  # of products alone: nothing cancels
        remaining = precisions * spread[:, None] if spread.ndim == 2 else precisions @ spread
        within = covariance @ (own.sum(1) @ remaining.flatten(1)).view_as(covariance)
        moments.append((between + between.mT + within + within.mT) / 2)
    return _statistics(parameters, responsibilities, density, sums, torch.stack(moments), sample_weight)


def _groups(parameters: MixtureParameters) -> Iterator[tuple[Tensor, slice]]:
    """Each `D x D` covariance, with the components that have it."""
    covariances = parameters.expanded_covariances()
    if parameters.structure.shared:
        yield covariances[0], slice(None)
        return
    for k, covariance in enumerate(covariances):
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


def _denoised(
    statistics: SufficientStatistics, parameters: MixtureParameters, inflated: MixtureParameters, noise: Tensor
) -> SufficientStatistics:
    """Statistics of points without the noise that they share, from those under covariances that hold it.

    Moments about the means are moved by each component's gain.
    """
    structure = parameters.structure
    statistics = statistics.about(parameters.means)
    counts = statistics.counts
    if not inflated.structure.correlated:
        gain = _variances(parameters) / _variances(inflated)
        sums = gain * statistics.sums
        moments = gain.square() * statistics.scatter + counts[:, None] * gain * noise
    else:
        distinct = slice(1) if structure.shared else slice(None)
        precisions = inflated.structure.precisions(inflated.precisions_cholesky)
        gains = parameters.expanded_covariances()[distinct] @ precisions
        counts = counts.sum(0, keepdim=True) if structure.shared else counts
        within = gains @ (noise[0] if noise.ndim == 3 else noise[0].diag())
        sums = (gains @ statistics.sums[..., None]).squeeze(-1)
        moments = gains @ statistics.scatter @ gains.mT + counts[:, None, None] * within
    return replace(statistics, sums=sums, scatter=structure.scatter_of(moments), structure=structure)


def _inflated(parameters: MixtureParameters, noise: Tensor) -> MixtureParameters:
    """The mixture of the noisy points, where they share the noise."""
    structure = parameters.structure
    if _elementwise(structure, noise):
        own, covariances = covariance_structure("diag"), _variances(parameters) + noise
    else:
        matrix = noise if noise.ndim == 3 else torch.diag_embed(noise)
        covariances = parameters.expanded_covariances() + matrix
        own = covariance_structure("tied" if structure.shared else "full")
        covariances = covariances[0] if structure.shared else covariances
    return MixtureParameters(parameters.weights, parameters.means, covariances, own)


def _weighted(joint: Tensor, sample_weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Responsibilities times the weights, and log-densities times the weights."""
    density = joint.logsumexp(1)
    responsibilities = (joint - density[:, None]).exp()
    if sample_weight is None:
        return responsibilities, density
    return responsibilities * sample_weight[:, None], density * sample_weight


def _statistics(
    parameters: MixtureParameters,
    responsibilities: Tensor,
    density: Tensor,
    sums: Tensor,
    moments: Tensor,
    sample_weight: Tensor | None,
) -> SufficientStatistics:
    """Statistics about the means, from second moments of each distinct covariance."""
    return SufficientStatistics(
        counts=responsibilities.sum(0),
        sums=sums,
        scatter=parameters.structure.scatter_of(moments),
        centres=parameters.means,
        log_likelihood=density.sum(),
        weight=density.new_tensor(float(len(density))) if sample_weight is None else sample_weight.sum(),
        structure=parameters.structure,
    )
