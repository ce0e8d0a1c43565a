"""The interface of a covariance structure: stored shapes, densities and closed-form estimates."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from latentmix.models.mixture.features import QuadraticFeatures

__all__ = ["LOG_TWO_PI", "CovarianceStructure"]

LOG_TWO_PI = math.log(2 * math.pi)


class CovarianceStructure(ABC):
    """Constraints on the covariances of a mixture, and the form in which these are stored.

    To add a covariance type, subclass `Matrices` or `Variances`, which hold everything that follows from the flags
    below, override what differs, and `register_structure` an instance. A structure is stateless. `K` components over
    `D` features have `scales`, standard deviations of `scale_shape`; where the structure is correlated also Cholesky
    factors of correlation matrices; and `covariances` of `covariance_shape`, as scikit-learn stores them. Where a
    method takes covariances, factors or scales in their stored shape, batch dimensions may come first unless it says
    otherwise.

    Attributes:
        name: The word for it, `covariance_type` of the estimators.
        correlated: Whether covariances are stored as matrices; otherwise variances are.
        shared: Whether all components have one covariance, stored once.
        isotropic: Whether all features of a component have one variance.
    """

    name: ClassVar[str]
    correlated: ClassVar[bool] = False
    shared: ClassVar[bool] = False
    isotropic: ClassVar[bool] = False

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def scale_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of the standard deviations."""
        own = () if self.isotropic else (n_features,)
        return own if self.shared else (n_components, *own)

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of the stored covariances."""
        scales = self.scale_shape(n_components, n_features)
        return (*scales, n_features) if self.correlated else scales

    def single_shape(self, n_features: int) -> tuple[int, ...]:
        """Shape of one stored covariance."""
        shape = self.covariance_shape(1, n_features)
        return shape if self.shared else shape[1:]

    def correlation_shape(self, n_components: int, n_features: int) -> tuple[int, ...] | None:
        """Batch shape of the `D x D` correlation factors, `None` where there are none."""
        return self.scale_shape(n_components, n_features)[:-1] if self.correlated and n_features > 1 else None

    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Number of free covariance parameters."""
        count = math.prod(self.scale_shape(n_components, n_features))
        return count * (n_features + 1) // 2 if self.correlated else count

    def contains(self, other: CovarianceStructure) -> bool:
        """Whether every covariance of another structure is also one of this structure."""
        correlated = self.correlated or not other.correlated
        return correlated and (other.shared or not self.shared) and (other.isotropic or not self.isotropic)

    def scale_counts(self, counts: Tensor, n_features: int) -> Tensor:
        """Number of values that each scale is estimated from, broadcastable to the scales.

        Args:
            counts: `(K,)` counts of the components' points, or their weights.
            n_features: Number of features `D`.
        """
        each = counts.sum() if self.shared else counts if self.isotropic else counts[:, None]
        return each * n_features if self.isotropic else each

    def feature_scales(self, variance: Tensor) -> Tensor:
        """Scales by which features are standardised: `(D,)`, equal where the structure is isotropic.

        Args:
            variance: `(D,)` variances of the features.
        """
        return (variance.mean().expand_as(variance) if self.isotropic else variance).sqrt()

    def per_scale(self, factor: Tensor) -> Tensor:
        """The factor of the scales when features are multiplied by a `(D,)` factor; a number if isotropic."""
        return factor[0] if self.isotropic else factor

    def variances(self, covariances: Tensor) -> Tensor:
        """The variances among stored covariances, with any batch shape in front."""
        return covariances.diagonal(dim1=-2, dim2=-1) if self.correlated else covariances

    @abstractmethod
    def by_component(self, stored: Tensor) -> Tensor:
        """A view with one dimension for the components and one (of matrices two) for the features.

        Args:
            stored: Covariances, factors or variances in their stored shape.

        Returns:
            `... x K x D x D` for matrices, `... x K x D` for variances; 1 in the place of `K` where all components
            share a covariance, and in the place of `D` where the structure is isotropic.
        """

    @abstractmethod
    def expand(self, stored: Tensor, n_components: int, n_features: int) -> Tensor:
        """Stored covariances, precisions or factors as `... x K x D x D` matrices."""

    @abstractmethod
    def compress(self, matrices: Tensor) -> Tensor:
        """The inverse of `expand`, for `K x D x D` matrices that this structure can store."""

    @abstractmethod
    def components(self, means: Tensor, scales: Tensor, correlation: Tensor | None) -> dist.TorchDistribution:
        """The `K` components: a multivariate normal, or independent normals, of batch `(K,)` and event `(D,)`.

        Args:
            means: `... x K x D`.
            scales: Of `scale_shape`.
            correlation: Factors of the correlation matrices, `None` where there are none; any unit lower-triangular
                matrices serve, whose rows the scales multiply.
        """

    @abstractmethod
    def root(self, scales: Tensor, correlation: Tensor | None) -> Tensor:
        """Lower factors `L` of the covariances `L L^T` in their stored shape, from scales and correlation factors."""

    @abstractmethod
    def covariances(self, scales: Tensor, correlation: Tensor | None) -> Tensor:
        """The covariances in their stored shape, from scales and correlation factors."""

    @abstractmethod
    def precision_traces(self, scales: Tensor, correlation: Tensor | None, variance: Tensor) -> Tensor:
        """Traces of the precisions times `diag(variance)`, `(D,)`: of each component, `(K,)`, or `()` where shared."""

    @abstractmethod
    def precisions_cholesky(self, covariances: Tensor) -> Tensor:
        """Upper factors `U` of the precisions `U U^T` in their stored shape; NaN where not positive definite."""

    @abstractmethod
    def precisions_cholesky_from_precisions(self, precisions: Tensor) -> Tensor:
        """Upper factors of precisions, both in the stored shape; NaN where these are not positive definite."""

    @abstractmethod
    def precisions_cholesky_from_root(self, root: Tensor) -> Tensor:
        """Upper factors of the precisions, from lower factors of the covariances, both in the stored shape."""

    @abstractmethod
    def precisions(self, precisions_cholesky: Tensor) -> Tensor:
        """Precisions in their stored shape, from their upper factors."""

    @abstractmethod
    def scale_tril(self, precisions_cholesky: Tensor) -> Tensor:
        """Lower factors `L` of the covariances in their stored shape, from those of the precisions."""

    @abstractmethod
    def factors(self, precisions_cholesky: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scales, and correlation factors where there are any, of covariances by `precisions_cholesky`."""

    @abstractmethod
    def rescale(self, covariances: Tensor, factor: Tensor) -> Tensor:
        """Covariances of `x * factor`; `factor` is `(D,)`, constant where the structure is isotropic."""

    @abstractmethod
    def rescale_factors(self, precisions_cholesky: Tensor, factor: Tensor) -> Tensor:
        """`precisions_cholesky` of `x * factor`, as in `rescale`."""

    @abstractmethod
    def scatter(self, responsibilities: Tensor, deviations: Tensor) -> Tensor:
        """Second moments, additive over the data, as much of them as `estimate` needs.

        Args:
            responsibilities: `n x K`.
            deviations: `n x K x D` from any points, such as the means.

        Returns:
            Of `covariance_shape`, but that an isotropic structure keeps the `D` features apart (their mean counts).
        """

    @abstractmethod
    def pool(self, weights: Tensor, covariances: Tensor) -> Tensor:
        """The scatter of `(K,)` weights of points with the stored covariances about their means."""

    @abstractmethod
    def estimate(self, counts: Tensor, scatter: Tensor, shift: Tensor) -> Tensor:
        """Maximum-likelihood covariances in their stored shape, from moments.

        Args:
            counts: `(K,)` sums of the responsibilities.
            scatter: Second moments, as `scatter` gives them.
            shift: `K x D` means, less the points that the scatter is about.
        """

    @abstractmethod
    def regularize(self, covariances: Tensor, variance: float | Tensor) -> Tensor:
        """Covariances with `variance` (a number, `(D,)` or `K x D`) added to their diagonals."""

    @abstractmethod
    def subtract_floor(self, covariances: Tensor, floor: Tensor) -> Tensor:
        """Covariances less `floor`, `(D,)`, on their diagonals; where they do not exceed it, a thousandth of it."""

    @abstractmethod
    def features(self, n_features: int, device: torch.device) -> QuadraticFeatures:
        """The features of points in which log-densities differ between components linearly."""

    @abstractmethod
    def whiten(self, deviations: Tensor, precisions_cholesky: Tensor) -> Tensor:
        """Deviations from the components' means, `... x K x n x D`, times the factors of the components' precisions."""

    @abstractmethod
    def half_log_det(self, precisions_cholesky: Tensor, n_features: int) -> Tensor:
        """Half the log-determinants of the precisions: `... x K`, or `... x 1` where shared."""

    def scatter_of(self, moments: Tensor) -> Tensor:
        """Scatter, as `estimate` takes it, from second moments, `K x D x D`, or their diagonals, `K x D`."""
        if not self.correlated and moments.ndim == 3:
            moments = moments.diagonal(dim1=-2, dim2=-1)
        return moments.sum(0) if self.shared else moments

    def log_density(self, x: Tensor, means: Tensor, precisions_cholesky: Tensor) -> Tensor:
        """Log-density of `... x n x D` points under each component, `... x n x K`.

        Args:
            x: The points.
            means: `... x K x D`.
            precisions_cholesky: In the stored shape.
        """
        return self.centred_log_density(x[..., None, :, :] - means[..., None, :], precisions_cholesky).mT

    def centred_log_density(self, deviations: Tensor, precisions_cholesky: Tensor) -> Tensor:
        """Log-density, `... x K x n`, of points by their deviations from the means, `... x K x n x D`."""
        squares = self.whiten(deviations, precisions_cholesky).square().sum(-1)
        return self.log_scale(precisions_cholesky, deviations.shape[-1])[..., None] - 0.5 * squares

    def log_scale(self, precisions_cholesky: Tensor, n_features: int) -> Tensor:
        """Log-densities of the components at their means: `... x K`, or `... x 1` where shared."""
        return self.half_log_det(precisions_cholesky, n_features) - 0.5 * n_features * LOG_TWO_PI
