r"""Posterior draws of a Gaussian mixture by Gibbs sampling under conjugate priors, about the mode that they start at.

Components and parameters are drawn in turn (Diebolt and Robert, *Estimation of finite mixture distributions through
Bayesian sampling*, 1994), all chains at once. The priors are those of Fraley and Raftery (*Bayesian regularization for
normal mixture estimation and model-based clustering*, 2007): with :math:`m, V` mean and covariance of the data,

.. math::
    \pi \sim \mathrm{Dirichlet}(1), \quad \Sigma_k \sim \mathcal W^{-1}(D + 2, V / K^{2/D}), \quad
    \mu_k \mid \Sigma_k \sim \mathcal N(m, \Sigma_k / 0.01),

with the same law in one dimension for each variance. The posterior is equivariant under the affine maps that the
covariance structure allows. The priors are weak, worth a hundredth of a point in each mean and `D + 2` points in each
covariance, but not flat, and differ from those of `NUTS` and `SVI`: PSIS-LOO of `select` is
under these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentmix.inference.mixtures.em.statistics import moments
from latentmix.inference.mixtures.points.validation import check_points
from latentmix.models.display import Displayed
from latentmix.models.mixture.covariances import LOG_TWO_PI, CovarianceStructure, covariance_structure
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.mixture.quadratic import ExpandedPoints, coefficients

__all__ = ["GibbsDraws", "gibbs"]

_KAPPA = 0.01


@dataclass(frozen=True, repr=False)
class GibbsDraws(Displayed):
    """Draws of the posterior, chains first, in float64.

    Attributes:
        weights: `C x S x K`.
        means: `C x S x K x D`.
        covariances: `C x S` in front of the stored shape of the covariances.
        log_likelihood: `n x C x S` log-densities of the points, nats.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    log_likelihood: Tensor


def gibbs(
    x: Tensor | NDArray[Any],
    start: MixtureParameters,
    *,
    chains: int = 4,
    draws: int = 250,
    warmup: int = 100,
    random_state: int = 0,
) -> GibbsDraws:
    """Draw from the posterior of a mixture, from a fit of it.

    All chains start at the fit, so that their agreement shows how well they mix about that mode, and nothing about
    other modes. Log-densities are invariant to label switching.

    Args:
        x: `n x D` points.
        start: The fit.
        chains: Number of chains `C`.
        draws: Number of draws of each, `S`, after the warm-up.
        warmup: Number of draws that are discarded first.
        random_state: Seed.

    Returns:
        The draws.

    Raises:
        ValueError: If a count is below one (`warmup` below zero), or there are fewer than two points.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.analysis.gibbs import gibbs
        >>> from latentmix.inference.mixtures.gaussian import GaussianMixture
        >>> x = torch.cat([torch.randn(50, 2) - 4, torch.randn(50, 2) + 4])
        >>> fitted = GaussianMixture(2, random_state=0).fit(x)
        >>> gibbs(x, fitted.parameters_, draws=20, warmup=5).log_likelihood.shape
        torch.Size([100, 4, 20])
    """
    if min(chains, draws) < 1 or warmup < 0 or len(x) < 2:
        raise ValueError(
            f"Expected chains and draws >= 1, warmup >= 0 and two points; got {chains}, {draws}, {warmup}, {len(x)}."
        )
    points = check_points(x, start.means.shape[1])
    sampler = _Sampler(points, start, chains, np.random.default_rng(random_state))
    kept: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for sweep in range(warmup + draws):
        state = sampler.sweep()
        if sweep >= warmup:
            kept.append(state)
    weights, means, covariances, density = (torch.stack(part, 1) for part in zip(*kept, strict=True))
    location, scale = sampler.location, sampler.scale
    return GibbsDraws(
        weights,
        means * scale + location,
        start.structure.rescale(covariances, scale),
        density.permute(2, 0, 1) - scale.log().sum(),
    )


class _Sampler:
    """The state of all chains, the components of the points, in standardised coordinates."""

    def __init__(self, x: Tensor, start: MixtureParameters, chains: int, generator: np.random.Generator) -> None:
        self.structure: CovarianceStructure = start.structure
        self.generator, self.chains = generator, chains
        self.n_components, self.size = start.means.shape
        self.location, variance = moments(x)
        variance = variance.mean().expand_as(variance) if self.structure.isotropic else variance
        self.scale = variance.sqrt()
        z = (x.double() - self.location) / self.scale
        self.own = covariance_structure("full" if self.structure.correlated else "diag")
        self.points = ExpandedPoints(z, self.own)
        shrunk = self.n_components ** (-2 / self.size)
        prior = torch.cov(z.T).reshape(self.size, self.size) + 1e-6 * torch.eye(self.size).to(z)
        self.prior = shrunk * (prior if self.structure.correlated else prior.diagonal())
        inside = start.to(z).affine(1 / self.scale, -self.location / self.scale)
        self.assigned = self._assign(inside.responsibilities(z)[:, None].expand(-1, chains, -1))
        self.location = self.location + self.points.centre * self.scale  # the origin of the features

    def sweep(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw weights, means and covariances, then components; with the log-densities, `C x n`."""
        totals = self.assigned.flatten(1).T @ self.points.design.T
        sums, counts, squares = totals.split([self.size, 1, totals.shape[1] - self.size - 1], 1)
        scatter = self.points.features.scatter(squares).unflatten(0, (self.chains, -1))
        sums, counts = (part.reshape(self.chains, self.n_components, -1) for part in (sums, counts))
        gammas = self._gamma(1 + counts[..., 0])
        weights = gammas / gammas.sum(-1, keepdim=True)
        means, covariances, precisions, log_scale = self._normals(counts[..., 0], sums, scatter)
        linear = coefficients(self.own, self.points.features, means, precisions, weights.log() + log_scale)
        joint = (self.points.design.T @ linear.flatten(0, 1).T).unflatten(1, (self.chains, -1))
        density = joint.logsumexp(-1)
        self.assigned = self._assign((joint - density[..., None]).exp())
        return weights, means, self._stored(covariances), density.T

    def _normals(self, counts: Tensor, sums: Tensor, scatter: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw means and covariances; also the precisions, and log-densities at the means, `C x K`."""
        held = _KAPPA + counts
        centre = sums / held[..., None]  # the prior's mean is the origin
        noise = torch.from_numpy(self.generator.standard_normal(centre.shape)).to(centre)
        if not self.structure.correlated:
            variances = self._variances(counts, scatter - held[..., None] * centre.square())
            means = centre + noise * (variances / held[..., None]).sqrt()
            return means, variances, variances.reciprocal(), self.own.log_scale(variances.rsqrt(), self.size)
        scatter = scatter - held[..., None, None] * centre[..., None] * centre[..., None, :]
        factor, inverse, log_det = self._factors(counts, scatter)
        means = centre + (factor @ noise[..., None])[..., 0] / held.sqrt()[..., None]
        return means, factor @ factor.mT, inverse.mT @ inverse, 0.5 * (log_det - self.size * LOG_TWO_PI)

    def _stored(self, covariances: Tensor) -> Tensor:
        """Covariances of all components in the stored shape, after the dimension of the chains."""
        covariances = covariances[:, 0] if self.structure.shared else covariances
        return covariances[..., 0] if self.structure.isotropic else covariances

    def _variances(self, counts: Tensor, scatter: Tensor) -> Tensor:
        """Draw variances from their inverse gamma laws: `C x K x D`."""
        counts, prior = counts[..., None], self.prior
        if self.structure.isotropic:
            counts, scatter, prior = counts * self.size, scatter.sum(-1, keepdim=True), prior.mean()
        if self.structure.shared:
            counts, scatter = counts.sum(1, keepdim=True), scatter.sum(1, keepdim=True)
        spread = prior + scatter
        variances = spread / (2 * self._gamma(((3 + counts) / 2).expand_as(spread)))
        return variances.expand(self.chains, self.n_components, self.size)

    def _factors(self, counts: Tensor, scatter: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Draw covariances :math:`F F^\top` from their inverse Wishart laws: `F`, `F^-1`, log det of the precisions.

        By Bartlett's decomposition (1933): the precision is :math:`L^{-\top} T T^\top L^{-1}`.
        """
        if self.structure.shared:
            counts, scatter = counts.sum(-1, keepdim=True), scatter.sum(1, keepdim=True)
        freedom = self.size + 2 + counts
        root = torch.linalg.cholesky(self.prior + scatter)
        triangle = torch.from_numpy(self.generator.standard_normal(root.shape)).to(root).tril(-1)
        order = torch.arange(self.size, device=root.device)
        squares = 2 * self._gamma((freedom[..., None] - order) / 2)
        triangle = triangle + torch.diag_embed(squares.sqrt())
        inverse = torch.linalg.solve_triangular(root, triangle.mT, upper=False, left=False)
        factor = torch.linalg.solve_triangular(triangle, root.mT, upper=False).mT
        diagonals = triangle.diagonal(dim1=-2, dim2=-1) / root.diagonal(dim1=-2, dim2=-1)
        log_det = 2 * diagonals.log().sum(-1).expand(self.chains, self.n_components)
        shape = (*log_det.shape, self.size, self.size)
        return factor.expand(shape), inverse.expand(shape), log_det

    def _assign(self, responsibilities: Tensor) -> Tensor:
        """Draw components from `n x C x K` responsibilities, as `n x C x K` zeros and ones."""
        steps = responsibilities.cumsum(-1)
        level = torch.from_numpy(self.generator.random((*steps.shape[:2], 1))).to(steps) * steps[..., -1:]
        chosen = (steps <= level).sum(-1).clamp_max(self.n_components - 1)
        return torch.nn.functional.one_hot(chosen, self.n_components).to(steps)

    def _gamma(self, shape: Tensor) -> Tensor:
        drawn: NDArray[np.float64] = self.generator.standard_gamma(shape.cpu().numpy())
        return torch.from_numpy(drawn).to(shape).clamp_min(1e-300)
