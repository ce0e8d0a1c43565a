"""Covariance structures of full matrices: one for each component, or one for all."""

from __future__ import annotations

from typing import final

import pyro.distributions as dist
import torch
from torch import Tensor

from latentmix.models.mixture.features import NoSquares, Products, QuadraticFeatures
from latentmix.models.mixture.structure import CovarianceStructure

__all__ = ["LEAST_COLLINEARITY", "Full", "Matrices", "Tied", "inverse_lower"]

# The standard deviation of a feature given others, relative to its own, below which a covariance counts as singular:
# that of a condition of 1.6e15 for two features of one scale.
LEAST_COLLINEARITY = 5e-8


class Matrices(CovarianceStructure):
    """Covariances stored as matrices."""

    correlated = True

    def by_component(self, stored: Tensor) -> Tensor:
        return stored[..., None, :, :] if self.shared else stored

    def expand(self, stored: Tensor, n_components: int, n_features: int) -> Tensor:
        matrices = self.by_component(stored)
        return matrices.expand(*matrices.shape[:-3], n_components, n_features, n_features)

    def compress(self, matrices: Tensor) -> Tensor:
        return matrices[0] if self.shared else matrices

    def components(self, means: Tensor, scales: Tensor, correlation: Tensor | None) -> dist.TorchDistribution:
        return dist.MultivariateNormal(means, scale_tril=self.by_component(self.root(scales, correlation)))

    def root(self, scales: Tensor, correlation: Tensor | None) -> Tensor:
        return scales[..., None] if correlation is None else scales[..., None] * correlation

    def covariances(self, scales: Tensor, correlation: Tensor | None) -> Tensor:
        factor = self.root(scales, correlation)
        return factor @ factor.mT

    def precision_traces(self, scales: Tensor, correlation: Tensor | None, variance: Tensor) -> Tensor:
        root = torch.diag_embed(variance.sqrt())
        return torch.linalg.solve_triangular(self.root(scales, correlation), root, upper=False).square().sum((-2, -1))

    def precisions_cholesky(self, covariances: Tensor) -> Tensor:
        """Upper factors of the precisions; features of very different scales do no harm."""
        factor, info = torch.linalg.cholesky_ex(covariances)
        upper = inverse_lower(factor).mT
        # NaN where a variance is not positive and finite.
        given = factor.diagonal(dim1=-2, dim2=-1) / covariances.diagonal(dim1=-2, dim2=-1).sqrt()
        if not int(info.max()) and float(given.detach().amin()) >= LEAST_COLLINEARITY:
            return upper
        return upper.where(((given.amin(-1) >= LEAST_COLLINEARITY) & (info == 0))[..., None, None], torch.nan)

    def precisions_cholesky_from_precisions(self, precisions: Tensor) -> Tensor:
        flipped, info = torch.linalg.cholesky_ex(precisions.flip(-2, -1))
        return flipped.flip(-2, -1).where((info == 0)[..., None, None], torch.nan)

    def precisions_cholesky_from_root(self, root: Tensor) -> Tensor:
        return inverse_lower(root).mT.contiguous()

    def precisions(self, precisions_cholesky: Tensor) -> Tensor:
        return precisions_cholesky @ precisions_cholesky.mT

    def scale_tril(self, precisions_cholesky: Tensor) -> Tensor:
        return inverse_lower(precisions_cholesky.mT)

    def factors(self, precisions_cholesky: Tensor) -> tuple[Tensor, Tensor | None]:
        factor = self.scale_tril(precisions_cholesky)
        scales = factor.norm(dim=-1)
        return scales, factor / scales[..., None] if scales.shape[-1] > 1 else None

    def rescale(self, covariances: Tensor, factor: Tensor) -> Tensor:
        return covariances * factor[:, None] * factor

    def rescale_factors(self, precisions_cholesky: Tensor, factor: Tensor) -> Tensor:
        return precisions_cholesky / factor[:, None] * factor.sign()  # with a positive diagonal

    def subtract_floor(self, covariances: Tensor, floor: Tensor) -> Tensor:
        root = floor.clamp_min(torch.finfo(floor.dtype).tiny).sqrt()
        ratio = covariances / (root[:, None] * root)
        values, axes = torch.linalg.eigh(ratio)
        excess = torch.where(values - 1 > 1e-3, values - 1, 1e-3)
        clipped = (axes * excess[..., None, :]) @ axes.mT * (root[:, None] * root)
        enough = (values - 1 > 1e-3).all(-1)
        return torch.where(enough[..., None, None], covariances - torch.diag_embed(floor), clipped)

    def scatter(self, responsibilities: Tensor, deviations: Tensor) -> Tensor:
        if self.shared:
            flat = deviations.flatten(0, 1)
            return (flat * responsibilities.reshape(-1, 1)).T @ flat
        by_component = deviations.transpose(0, 1)
        return (by_component * responsibilities.T[..., None]).mT @ by_component

    def pool(self, weights: Tensor, covariances: Tensor) -> Tensor:
        return covariances * (weights.sum() if self.shared else weights[:, None, None])

    def estimate(self, counts: Tensor, scatter: Tensor, shift: Tensor) -> Tensor:
        if self.shared:
            return torch.addmm(scatter, (shift * counts[:, None]).T, shift, alpha=-1) / counts.sum()
        return torch.addcmul(scatter / counts[:, None, None], shift[:, :, None], shift[:, None, :], value=-1)

    def regularize(self, covariances: Tensor, variance: float | Tensor) -> Tensor:
        if isinstance(variance, Tensor) and self.shared and variance.ndim > 1:
            variance = variance.amax(0)
        raised = covariances.clone()
        raised.diagonal(dim1=-2, dim2=-1).add_(variance)
        return raised

    def features(self, n_features: int, device: torch.device) -> QuadraticFeatures:
        return (NoSquares if self.shared else Products)(n_features, device)

    def whiten(self, deviations: Tensor, precisions_cholesky: Tensor) -> Tensor:
        return deviations @ self.by_component(precisions_cholesky)

    def half_log_det(self, precisions_cholesky: Tensor, n_features: int) -> Tensor:
        return self.by_component(precisions_cholesky).diagonal(dim1=-2, dim2=-1).log().sum(-1)


@final
class Full(Matrices):
    """A covariance matrix for each component, stored `K x D x D`."""

    name = "full"


@final
class Tied(Matrices):
    """One covariance matrix for all components, stored `D x D`."""

    name = "tied"
    shared = True


def _identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)


def inverse_lower(lower: Tensor) -> Tensor:
    """Inverses of `... x D x D` lower triangular matrices."""
    return torch.linalg.solve_triangular(lower, _identity(lower), upper=False)
