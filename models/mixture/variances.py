"""Covariance structures without correlations: variances of components, of features, or of both."""

from __future__ import annotations

import math
from typing import final

import pyro.distributions as dist
import torch
from torch import Tensor

from latentmix.models.mixture.features import NoSquares, QuadraticFeatures, SquaredNorm, Squares
from latentmix.models.mixture.structure import CovarianceStructure

__all__ = ["Diagonal", "Spherical", "TiedDiagonal", "Variances"]


class Variances(CovarianceStructure):
    """Covariances stored as variances, of the components unless `shared`, of the features unless `isotropic`."""

    def by_component(self, stored: Tensor) -> Tensor:
        stored = stored.unsqueeze(-1) if self.isotropic else stored
        return stored.unsqueeze(-2) if self.shared else stored

    def expand(self, stored: Tensor, n_components: int, n_features: int) -> Tensor:
        variances = self.by_component(stored)
        return torch.diag_embed(variances.expand(*variances.shape[:-2], n_components, n_features))

    def compress(self, matrices: Tensor) -> Tensor:
        variances = matrices.diagonal(dim1=-2, dim2=-1)
        variances = variances[0] if self.shared else variances
        return variances[..., 0] if self.isotropic else variances

    def components(self, means: Tensor, scales: Tensor, correlation: Tensor | None) -> dist.TorchDistribution:
        return dist.Normal(means, self.by_component(scales)).to_event(1)

    def root(self, scales: Tensor, correlation: Tensor | None) -> Tensor:
        return scales

    def covariances(self, scales: Tensor, correlation: Tensor | None) -> Tensor:
        return scales.square()

    def precision_traces(self, scales: Tensor, correlation: Tensor | None, variance: Tensor) -> Tensor:
        precisions = scales.square().reciprocal()
        return precisions * variance.sum() if self.isotropic else precisions @ variance

    def precisions_cholesky(self, covariances: Tensor) -> Tensor:
        return covariances.rsqrt().nan_to_num(math.nan, math.nan, math.nan)

    def precisions_cholesky_from_precisions(self, precisions: Tensor) -> Tensor:
        return precisions.where(precisions > 0, torch.nan).sqrt()

    def precisions_cholesky_from_root(self, root: Tensor) -> Tensor:
        return root.reciprocal()

    def precisions(self, precisions_cholesky: Tensor) -> Tensor:
        return precisions_cholesky.square()

    def scale_tril(self, precisions_cholesky: Tensor) -> Tensor:
        return precisions_cholesky.reciprocal()

    def factors(self, precisions_cholesky: Tensor) -> tuple[Tensor, Tensor | None]:
        return precisions_cholesky.reciprocal(), None

    def rescale(self, covariances: Tensor, factor: Tensor) -> Tensor:
        return covariances * self.per_scale(factor).square()

    def rescale_factors(self, precisions_cholesky: Tensor, factor: Tensor) -> Tensor:
        return precisions_cholesky / self.per_scale(factor).abs()

    def scatter(self, responsibilities: Tensor, deviations: Tensor) -> Tensor:
        return torch.einsum(f"nk,nkd->{'' if self.shared else 'k'}d", responsibilities, deviations.square())

    def pool(self, weights: Tensor, covariances: Tensor) -> Tensor:
        pooled = covariances * (weights.sum() if self.shared else weights if self.isotropic else weights[:, None])
        return pooled[..., None] if self.isotropic else pooled

    def estimate(self, counts: Tensor, scatter: Tensor, shift: Tensor) -> Tensor:
        if self.shared:
            variances = (scatter - counts @ shift.square()) / counts.sum()
        else:
            variances = torch.addcmul(scatter / counts.unsqueeze(1), shift, shift, value=-1)
        return variances.mean(-1) if self.isotropic else variances

    def regularize(self, covariances: Tensor, variance: float | Tensor) -> Tensor:
        if isinstance(variance, Tensor):
            variance = variance.amax(0) if self.shared and variance.ndim > 1 else variance
            variance = variance.mean(-1) if self.isotropic else variance
        return covariances + variance

    def subtract_floor(self, covariances: Tensor, floor: Tensor) -> Tensor:
        level = floor.mean() if self.isotropic else floor
        return torch.maximum(covariances - level, 1e-3 * level)

    def features(self, n_features: int, device: torch.device) -> QuadraticFeatures:
        return (NoSquares if self.shared else SquaredNorm if self.isotropic else Squares)(n_features, device)

    def whiten(self, deviations: Tensor, precisions_cholesky: Tensor) -> Tensor:
        return deviations * self.by_component(precisions_cholesky)[..., None, :]

    def half_log_det(self, precisions_cholesky: Tensor, n_features: int) -> Tensor:
        log = precisions_cholesky.log()
        half = log * n_features if self.isotropic else log.sum(-1)
        return half[..., None] if self.shared else half


@final
class Diagonal(Variances):
    """A variance for each component and feature, stored `K x D`."""

    name = "diag"


@final
class TiedDiagonal(Variances):
    """A variance for each feature, the same in all components, stored `(D,)`."""

    name = "tied_diag"
    shared = True


@final
class Spherical(Variances):
    """A variance for each component, the same for all features, stored `(K,)`."""

    name = "spherical"
    isotropic = True
